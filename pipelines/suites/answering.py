"""Suites of questions that a policy answers in its own words; a rule says which answers are right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from datakit.generate import Complete
from datakit.label import PassAt, Verify
from pipelines.graph.backend import Role
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.stages.ask import ask
from pipelines.suites.asking import AskingSuite
from pipelines.suites.suite import Given


@dataclass(frozen=True, kw_only=True)
class AnswerSuite(AskingSuite):
    """Questions as `wording` says, answered; `verify` are the labels that say what is right, one behind the other."""

    role: ClassVar[Role] = "generator"
    key: ClassVar[str] = "prompt_id"

    verify: tuple[Verify, ...]
    figures: Mapping[str, str] = field(default_factory=lambda: {"correct": "answers that are right"})
    votes: bool = False
    """Whether what is read of an answer can be counted as a vote for it: a number, a letter."""

    def reported(self, given: Given) -> Mapping[str, str]:
        """Of several answers to each prompt, pass@k and maj@k for k = 1, 2, 4, ..."""
        solving = self._solving(given)
        if solving is None:
            return self.figures
        passed = {f"pass_{k}": f"prompts that one of {k} answers solves (pass@{k}, unbiased)" for k in solving.ks}
        majority = {f"maj_{k}": f"prompts that most of the first {k} answers solve (maj@{k})" for k in solving.ks}
        return passed | (majority if self.votes else {})

    def _solving(self, given: Given) -> PassAt | None:
        """How several answers to a prompt are added up by the first of the labels; None for one answer each."""
        count, first = given.sampling.samples_per_prompt, self.verify[0].output
        if count == 1:
            return None
        ks = dict.fromkeys((*(1 << power for power in range(count.bit_length()) if 1 << power <= count), count))
        return PassAt(ks=tuple(ks), correct=first, read=f"{first}_read" if self.votes else "", along=given.slices)

    def scored(self, plan: Plan, given: Given) -> Node:
        """One row an answer, with the verdicts; of several answers one row a prompt (`label.pass_at`)."""
        asked = self.asked(plan, given)
        op = Complete(sampling=given.sampling)
        rows: Node = ask(plan, f"{given.label}/answers", op, asked, given.model, reading=given.reading, seed=given.seed)
        for verify in self.verify:
            rows = plan.table(f"{given.label}/answers.{verify.output}", verify, rows)
        solving = self._solving(given)
        return rows if solving is None else plan.table(f"{given.label}/solved", solving, rows)
