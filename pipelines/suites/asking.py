"""Suites whose questions are asked in words of their own, with or without examples before them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from datakit.template import FewShot, Wording
from pipelines.graph.node import Node, rows_of
from pipelines.graph.plan import Plan
from pipelines.suites.suite import Given, Suite

_UNMARKED = "text"
"""The template without marks: answers stand a blank behind what is asked."""


@dataclass(frozen=True, kw_only=True)
class AskingSuite(Suite):
    """Questions as `wording` says; the answer of an example is what its column `answers` holds."""

    answers: ClassVar[Literal["answer", "best"]] = "answer"

    wording: Wording = field(default_factory=Wording)
    alike: str = ""
    """The slice whose value a question and its examples share, where both have it."""

    @staticmethod
    def lead(given: Given) -> str:
        """What stands between a question and its answer: nothing where a template puts marks there."""
        rendering = given.reading.rendering.for_model(given.model.trained_template)
        return " " if rendering.template == _UNMARKED else ""

    def asked(self, plan: Plan, given: Given) -> Node:
        """The questions in these words, behind their examples: turns where a template marks turns, else one text."""
        asked = plan.table(f"{given.label}/asked", self.wording, given.rows)
        few = given.few_shot
        if few is None:
            return asked
        own = few.examples is given.rows
        examples = asked if own else plan.table(f"{given.label}/examples", self.wording, few.examples)
        shared = all(self.alike in rows_of(rows) for rows in (asked, examples))
        op = FewShot(
            count=few.count,
            choose=few.choose,
            answer=self.answers,
            alike=self.alike if shared else "",
            turns=not self.lead(given),
        )
        return plan.table(f"{given.label}/behind-examples", op, asked, examples, seed=given.seed)
