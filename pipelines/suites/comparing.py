"""Suites of questions that a policy answers; a second model says whether its answer beats the one of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from datakit.filter import NotNull
from datakit.generate import Complete
from datakit.label import Judge, Reward
from datakit.measure import WinRate
from datakit.sql import Query
from pipelines.graph.backend import Role
from pipelines.graph.node import Node, rows_of
from pipelines.graph.plan import Plan
from pipelines.stages.ask import ask
from pipelines.suites.suite import Given, Measured, Suite

_WINS = "judge_wins"
BY_REWARD = f"""
SELECT ours.*, theirs.reward AS baseline_reward, CAST((sign(ours.reward - theirs.reward) + 1) / 2 AS DOUBLE) AS {_WINS}
FROM ours LEFT JOIN theirs USING (sample_id) ORDER BY sample_id
"""
"""A row for every answer; one whose rewards are equal wins by half, one that lacks a reward has no verdict."""


@dataclass(frozen=True, kw_only=True)
class ComparisonSuite(Suite):
    """Questions with the answer of a baseline, `answer`. A judge compares both in both orders by `rubric`, or a reward
    model scores each.
    """

    role: ClassVar[Role] = "generator"
    key: ClassVar[str] = "prompt_id"
    compares: ClassVar[bool] = True

    rubric: str = "pairwise"
    figures: Mapping[str, str] = field(
        default_factory=lambda: {
            "win_rate": "answers that beat the baseline's; a tie is half",
            "win_rate_lc": "the same at equal length (arXiv:2404.04475, without its term for hard questions)",
            "length_gap": "characters that they are longer than the baseline's",
        }
    )

    def scored(self, plan: Plan, given: Given) -> Node:
        """One row an answer, with the verdict."""
        rows = plan.table(f"{given.label}/with-baseline", NotNull(columns=("answer",)), given.rows)
        op = Complete(sampling=given.sampling)
        answers = ask(plan, f"{given.label}/answers", op, rows, given.model, reading=given.reading, seed=given.seed)
        if given.judge is not None:
            judge = Judge.of({"rubric": self.rubric, "answers": ["response", "answer"]})
            label = f"{given.label}/verdicts"
            return ask(plan, label, judge, answers, given.judge, reading=given.reading, seed=given.seed)
        assert given.reward_model is not None, "the command asks for one of both"
        key = rows_of(answers).key
        swapped = Query(query="SELECT * REPLACE (answer AS response) FROM rows", tables=("rows",), key=key)
        theirs = plan.table(f"{given.label}/baseline", swapped, answers)
        rewards = {
            name: ask(plan, f"{given.label}/rewards.{name}", Reward(), one, given.reward_model, reading=given.reading)
            for name, one in (("ours", answers), ("theirs", theirs))
        }
        query = Query(query=BY_REWARD, tables=("ours", "theirs"), key=key)
        return plan.table(f"{given.label}/verdicts", query, rewards["ours"], rewards["theirs"])

    def measured(self, plan: Plan, given: Given) -> Measured:
        """The verdicts, and how often the policy wins: as it is, and at equal length."""
        rows = self.scored(plan, given)
        op = WinRate(column=_WINS, group=self.key, slices=given.slices, stage=given.label)
        return Measured(rows, plan.table(f"{given.label}/figures", op, rows, seed=given.seed), self.figures)
