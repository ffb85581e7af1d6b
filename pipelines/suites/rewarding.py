"""Suites of pairs that a reward model puts in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from datakit.blend import Unpair
from datakit.label import Reward
from datakit.measure import Mean
from datakit.sql import Query
from pipelines.graph.backend import Role
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.stages.ask import ask
from pipelines.stages.rewards import REWARDED_PAIRS
from pipelines.suites.suite import Given, Measured, Suite

ORDER = f"""{REWARDED_PAIRS}
SELECT pair_id, prompt_id, {{slices}}reward_chosen, reward_rejected, reward_chosen - reward_rejected AS margin,
  CAST(sign(reward_chosen - reward_rejected) = 1 AS DOUBLE) AS correct
FROM given JOIN pairs USING (pair_id) WHERE reward_chosen IS NOT NULL AND reward_rejected IS NOT NULL ORDER BY pair_id
"""
"""A row for every pair whose answers both have a reward; equal ones are no right order."""

SECTIONS = """
SELECT *, weight / nullif(sum(weight) OVER (PARTITION BY section), 0) AS section_weight FROM (
  SELECT *, correct AS score, {sections} AS section, {weights} / count(*) OVER (PARTITION BY subset) AS weight FROM rows
) ORDER BY pair_id
"""
"""The same rows with their section and their share in it: a subset counts as `weights` says, its rows alike."""


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

    sections: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Of a benchmark whose score is a mean of sections: how much each value of `subset` counts in each."""

    def measured(self, plan: Plan, given: Given) -> Measured:
        """The figures of every slice; where rows have a `subset` that is of a section, the score, too."""
        if not self.sections or "subset" not in given.slices:
            return super().measured(plan, given)
        query = Query(query=sectioned(self.sections), tables=("rows",), key=("pair_id",))
        rows = plan.table(f"{given.label}/sections", query, self.scored(plan, given))
        meanings = {**self.figures, "score": "mean of the sections; subsets count in them as the benchmark has it"}
        op = Mean(
            columns=tuple(meanings),
            group=self.key,
            slices=("section", *given.slices),
            stage=given.label,
            weights={"score": "section_weight"},
        )
        return Measured(rows, plan.table(f"{given.label}/figures", op, rows, seed=given.seed), meanings)

    def scored(self, plan: Plan, given: Given) -> Node:
        """One row for each pair, with its margin and whether it stands in the right order."""
        answers = plan.table(f"{given.label}/answers", Unpair(desirable=True), given.rows)
        rewards = ask(plan, f"{given.label}/rewards", Reward(), answers, given.model, reading=given.reading)
        slices = "".join(f'"{name}", ' for name in given.slices)
        query = Query(query=ORDER.format(slices=slices), tables=("given", "rewards"), key=("pair_id",))
        return plan.table(f"{given.label}/order", query, given.rows, rewards)


def sectioned(sections: Mapping[str, Mapping[str, int]]) -> str:
    """The SQL that gives each row its section, of these, and its share in it."""
    named = [(subset, section, count) for section, subsets in sections.items() for subset, count in subsets.items()]
    cases = (
        " ".join(f"WHEN '{subset}' THEN {value}" for subset, value in pairs)
        for pairs in (
            [(subset, f"'{section}'") for subset, section, _ in named],
            [(subset, f"{count}.0") for subset, _, count in named],
        )
    )
    section, weight = (f"CASE subset {case} END" for case in cases)
    return SECTIONS.format(sections=section, weights=weight)
