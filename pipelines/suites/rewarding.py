"""Suites of pairs that a reward model puts in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from datakit.blend import Unpair
from datakit.label import Reward
from datakit.sql import Query
from pipelines.graph.backend import Role
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.stages.ask import ask
from pipelines.stages.rewards import REWARDED_PAIRS
from pipelines.suites.suite import Given, Suite

ORDER = f"""{REWARDED_PAIRS}
SELECT pair_id, prompt_id, {{slices}}reward_chosen, reward_rejected, reward_chosen - reward_rejected AS margin,
  CAST(sign(reward_chosen - reward_rejected) = 1 AS DOUBLE) AS correct
FROM given JOIN pairs USING (pair_id) WHERE reward_chosen IS NOT NULL AND reward_rejected IS NOT NULL ORDER BY pair_id
"""
"""A row for every pair whose answers both have a reward; equal ones are no right order."""


@dataclass(frozen=True, kw_only=True)
class RewardSuite(Suite):
    """Pairs, both of whose answers a reward model scores."""

    role: ClassVar[Role] = "scorer"
    key: ClassVar[str] = "prompt_id"

    figures: Mapping[str, str] = field(
        default_factory=lambda: {
            "correct": "pairs whose chosen answer has the greater reward",
            "margin": "how much greater it is",
        }
    )

    def scored(self, plan: Plan, given: Given) -> Node:
        """One row for each pair, with its margin and whether it stands in the right order."""
        answers = plan.table(f"{given.label}/answers", Unpair(desirable=True), given.rows)
        rewards = ask(plan, f"{given.label}/rewards", Reward(), answers, given.model, reading=given.reading)
        slices = "".join(f'"{name}", ' for name in given.slices)
        query = Query(query=ORDER.format(slices=slices), tables=("given", "rewards"), key=("pair_id",))
        return plan.table(f"{given.label}/order", query, given.rows, rewards)
