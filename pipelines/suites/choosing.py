"""Suites of questions with answers on offer: which does a model find likeliest? Nothing is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from datakit.blend import Choices as Offers
from datakit.label import Choices, Logprobs
from pipelines.graph.backend import Role
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.stages.ask import ask
from pipelines.suites.asking import AskingSuite
from pipelines.suites.suite import Given

ACCURACY: Mapping[str, str] = {
    "correct": "questions whose right answer is the likeliest",
    "correct_norm": "the same by log-likelihood a character",
    "right_mass": "share of the probability of all choices that the right one has",
}


@dataclass(frozen=True, kw_only=True)
class ChoiceSuite(AskingSuite):
    """Questions as `wording` says; every choice is read behind its question, and log-likelihoods decide."""

    role: ClassVar[Role] = "model"
    answers: ClassVar[Literal["answer", "best"]] = "best"

    figures: Mapping[str, str] = field(default_factory=lambda: ACCURACY)

    def scored(self, plan: Plan, given: Given) -> Node:
        """One row a question (`label.choices`)."""
        offers = plan.table(f"{given.label}/offers", Offers(lead=self.lead(given)), self.asked(plan, given))
        op = Logprobs(columns=(("input_ids", "loss_mask", "logprob"),), per="row")
        read = ask(plan, f"{given.label}/logprobs", op, offers, given.model, reading=given.reading)
        return plan.table(f"{given.label}/scores", Choices(along=given.slices), read)
