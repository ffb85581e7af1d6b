"""Suites of questions with answers on offer: which does a model find likeliest? Nothing is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from datakit.blend import Choices as Offers
from datakit.label import Choices, Logprobs
from datakit.template import Wording
from pipelines.graph.backend import Role
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.stages.ask import ask
from pipelines.suites.suite import Given, Suite

ACCURACY: Mapping[str, str] = {
    "correct": "questions whose right answer is the likeliest",
    "correct_norm": "the same by log-likelihood a character",
    "right_mass": "share of the probability of all choices that the right one has",
}

_UNMARKED = "text"
"""The template without marks: answers stand a blank behind what is asked."""


@dataclass(frozen=True, kw_only=True)
class ChoiceSuite(Suite):
    """Questions as `wording` says; every choice is read behind its question, and log-likelihoods decide."""

    role: ClassVar[Role] = "model"

    wording: Wording = field(default_factory=Wording)
    figures: Mapping[str, str] = field(default_factory=lambda: ACCURACY)

    def scored(self, plan: Plan, given: Given) -> Node:
        """One row a question (`label.choices`)."""
        rendering = given.reading.rendering.for_model(given.model.trained_template)
        lead = " " if rendering.template == _UNMARKED else ""
        asked = plan.table(f"{given.label}/asked", self.wording, given.rows)
        offers = plan.table(f"{given.label}/offers", Offers(lead=lead), asked)
        op = Logprobs(columns=(("input_ids", "loss_mask", "logprob"),), per="row")
        read = ask(plan, f"{given.label}/logprobs", op, offers, given.model, reading=given.reading)
        return plan.table(f"{given.label}/scores", Choices(along=given.slices), read)
