"""Group relative policy optimization: an answer is worth what it has over the other answers to its prompt.

    prompts of a step -> answers of the policy as it stands -> rewards
        -> advantage = (reward - mean of the group) / standard deviation of the group -> policy gradient -> next step

No critic and no pairs. Shao et al., "DeepSeekMath" (2024, arXiv:2402.03300); one optimizer step for each step's
answers, so that they are those of the policy that learns, and nothing has to be clipped. Without the standard deviation
(`scale`) it is Dr.GRPO (Liu et al. 2025, arXiv:2503.20783).
"""

from __future__ import annotations

from typing import Any

import luigi

from datakit.label import GroupAdvantage
from datakit.tokenize import Drawn
from pipelines.commands.online import OnlineRecipe, learning_over
from pipelines.online.arrangement import Arrangement


class Grpo(OnlineRecipe):
    """A policy that learns from groups of its own answers, step by step."""

    title = "grpo"

    algorithm = luigi.Parameter(default="policy_gradient", description="algorithm over token rows with advantages")
    learning = learning_over()
    scale = luigi.ChoiceParameter(
        default="std",
        choices=["std", "leave_one_out", "none"],
        description="what the distance from the group's mean is divided by (label.group_advantage)",
    )

    @property
    def arrangement(self) -> Arrangement:
        """Every answer against its group."""
        scale: Any = self.scale
        return Arrangement(rows=(Drawn(), GroupAdvantage(scale=scale)))
