"""SteerLM: a model learns answers behind their attributes, and is asked for the attributes that are wanted.

    --data -- label.attributes -- label.attribute_text -- template.chat -- template.condition -- tokens -- SFT
    held-out questions x attributes x levels -- label.attribute_text -- template.condition -- answers -- table

Dong et al., "SteerLM" (2023, arXiv:2310.05344). Attributes are the numbers of a regression reward model
(`rm_regression`); rows that hold some (format helpsteer) are taken as they are. The text before an answer is
NeMo-Aligner's, given and not learnt, whatever the chat template.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from luigi.freezing import recursively_unfreeze

from datakit.clients import Sampling
from datakit.label import Attributes, AttributeText
from datakit.label.attributes import check_written
from datakit.template import Condition
from pipelines.cli import invocation
from pipelines.cli.parameters import ListParameter, ObjectParameter
from pipelines.commands.one_shot import OneShotSetup
from pipelines.commands.requesting import Requesting
from pipelines.graph.backend import Step
from pipelines.graph.node import Node, rows_of
from pipelines.graph.plan import Plan
from pipelines.graph.results import Results
from pipelines.graph.steps import after_steps, answer_steps
from pipelines.report.figures import FigureTable, metrics
from pipelines.report.requested import requested_table
from pipelines.stages import requested
from pipelines.stages.ask import Reading, ask
from schemas import STEERLM_ATTRIBUTES
from schemas.errors import ConfigError, printable

_UNWANTED = ("toxicity", "humor", "creativity")
"""What NeMo-Aligner's prompt asks least of."""
CONDITIONED = (Step(name="conditioned", op=Condition()),)
"""Attributes before the answer."""


class SteerLm(Requesting):
    """A model that gives answers of the attributes that it is asked for."""

    example = "--model FOLDER --data rows.jsonl --reward FOLDER"
    title = "steerlm"
    other_formats = ("helpsteer", "alpaca", "dolly")

    attributes = ListParameter(default=STEERLM_ATTRIBUTES, description="names of the reward model's numbers, in order")
    steered = ListParameter(default=(), description="attributes to ask for at every level; empty: all")
    others = ObjectParameter(
        default={},
        description="levels of attributes while another is varied, as JSON; one that is not named: the highest, of "
        "toxicity, humor and creativity the lowest",
    )
    levels = ListParameter(default=(0, 1, 2, 3, 4), description="levels to ask for, of 0 to 4")

    def results(self, plan: Plan) -> Results:
        """Rows with their attributes, the policy, and its answers to held-out questions at every level."""
        return self.steered_policy(plan, self.one_shot_setup(plan), self.reward_model(plan))

    def steered_policy(self, plan: Plan, given: OneShotSetup, reward_model: Node) -> Results:
        """What is made of the rows `given`, as `results` says."""
        names, label, reading = self.names()[0], given.label, given.reading
        rows, tokens = {}, {}
        for part, own in given.parts.items():
            judging = "attributes" not in rows_of(own)
            labelling = (plan, f"{label}/{part}.attributes", Attributes(names=names), own, reward_model)
            known = ask(*labelling, reading=reading) if judging else own
            rows[part] = plan.table(f"{label}/{part}.labelled", AttributeText(names=names), known)
            rendering = reading.rendering.for_model(given.model.trained_template)
            steps = answer_steps(rendering, reading.max_length, rows_of(rows[part]), CONDITIONED)
            tokens[part] = after_steps(plan, f"{label}/{part}", steps, rows[part], given.model)
        policy = plan.model(
            f"{label}/policy",
            self.training_for(label),
            data=tokens["train"],
            tokenizer=given.model,
            init=given.model,
            validation=tokens["held-out"],
        )
        prompts = self.held_out_prompts(plan, given, policy)
        judged, figures = self.measured(plan, label, given, prompts, policy, reward_model)
        return Results(
            targets=(figures, policy),
            datasets={"labelled": rows["train"], "train": tokens["train"], "asked": prompts, "answers": judged},
            checkpoints={"first": given.model, "policy": policy},
            figures={"evaluation": figures},
        )

    def report(self) -> Sequence[FigureTable]:
        """Of each attribute what was measured at every level that was asked for."""
        figures, (_, steered) = metrics(self.graph.figures["evaluation"]), self.names()
        return [requested_table(self.task_family, "attribute", steered, self.requested_levels, figures)]

    def names(self) -> tuple[tuple[str, ...], list[str]]:
        """All attributes, and those that are varied; `ConfigError` for one that is none."""
        names: tuple[str, ...] = tuple(recursively_unfreeze(self.attributes))
        check_written("--attributes", names)
        steered = list(map(str, recursively_unfreeze(self.steered))) or list(names)
        strange = [name for name in (*steered, *self.others) if name not in names]
        if strange:
            raise ConfigError(
                "attributes",
                f"{printable(strange[0], 80)} is no attribute",
                expected=", ".join(names),
                kept="nothing was started",
                next=invocation.without("--others")
                if strange[0] in self.others
                else f"--steered '{json.dumps([name for name in steered if name in names] or [*names])}'",
            )
        return names, steered

    @property
    def measured_sql(self) -> str:
        """The SQL of what was measured of the attribute that a row of answers is about."""
        names, steered = self.names()
        return f"measured[{[names.index(name) + 1 for name in steered]}[subject + 1]]"

    def written(self, level: float) -> float:
        """A whole number of the scale."""
        scale = AttributeText()
        return float(round(min(max(level, scale.lowest), scale.highest)))

    def _requested_sql(self, names: Sequence[str], steered: Sequence[str]) -> list[str]:
        """Of each attribute the SQL of what is asked for: the level where it is varied, or else a fixed number."""
        usual = (self.others.get(name, 0 if name in _UNWANTED else 4) for name in names)
        fixed = dict(zip(names, self.as_written("--others", usual), strict=True))
        places = {name: steered.index(name) if name in steered else -1 for name in names}
        return [f"CASE WHEN subject = {places[name]} THEN requested ELSE {fixed[name]!r} END" for name in names]

    def requests(self, plan: Plan, label: str, rows: Node) -> Node:
        """The questions of `rows` for every attribute that is varied, and every level."""
        names, steered = self.names()
        more = f", CAST([{', '.join(self._requested_sql(names, steered))}] AS DOUBLE[]) AS attributes"
        return requested.requests(plan, label, rows, self.requested_levels, len(steered), more)

    def prompts(
        self, plan: Plan, label: str, requests: Node, policy: Node, reading: Reading, sampling: Sampling
    ) -> Node:
        """`requests` as `policy` reads them, with their attributes where the answer begins."""
        labelled = plan.table(label, AttributeText(names=self.names()[0]), requests)
        between = (Step(name="conditioned", op=Condition(generation=True)),)
        return requested.prompts(plan, label, labelled, policy, reading, sampling, between)

    def held_out_prompts(self, plan: Plan, given: OneShotSetup, policy: Node) -> Node:
        """The held-out questions, for every attribute and level, as `policy` reads them."""
        requests = self.requests(plan, f"{given.label}/requests", given.judged)
        sampling = self.likeliest(given.reading)
        return self.prompts(plan, f"{given.label}/asked", requests, policy, given.reading, sampling)

    def measured(
        self, plan: Plan, label: str, given: OneShotSetup, prompts: Node, policy: Node, reward_model: Node
    ) -> tuple[Node, Node]:
        """The likeliest answers of `policy` to the held-out `prompts` with what the reward model says of them, and the
        figures.
        """
        (names, steered), sampling = self.names(), self.likeliest(given.reading)
        answers = requested.answers(plan, f"{label}/answers", prompts, policy, sampling, self.settled_seed)
        measuring = Attributes(names=names, column="measured")
        judged = ask(plan, f"{label}/answers.attributes", measuring, answers, reward_model, reading=given.reading)
        figures = requested.measured(
            plan, label, judged, self.measured_sql, len(steered), len(self.levels), errors=True
        )
        return judged, figures
