"""Conversations of a policy with an environment, wherever a recipe draws answers: in its steps, and on held-out
prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datakit.clients import Sampling
from datakit.generate import Converse
from datakit.template import Rendering
from pipelines.graph.node import Node
from schemas.rows.rollouts import ENVIRONMENT_REWARD


@dataclass(frozen=True, kw_only=True)
class Conversing:
    """The `environment` carries on a conversation for `max_turns` answers at most; what it gives is the `reward` of
    answers where it `rewards` them, and stands beside another reward elsewhere.
    """

    environment: Node
    max_turns: int
    rewards: bool

    @property
    def reward(self) -> str:
        """The column of what it gives."""
        return "reward" if self.rewards else ENVIRONMENT_REWARD

    def drawing(self, sampling: Sampling, policy: Node, rendering: Rendering, max_length: int | None) -> Converse:
        """What draws conversations, written as prompts of `policy` are."""
        written = rendering.for_model(policy.trained_template).settings
        limits: dict[str, Any] = {"max_turns": self.max_turns, "max_length": max_length}
        return Converse(sampling=sampling, reward=self.reward, **limits, **written)

    def models(self, tokenizer: Node) -> dict[str, Node]:
        """What it asks besides the policy."""
        return {"environment": self.environment, "tokenizer": tokenizer}
