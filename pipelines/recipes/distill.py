"""Distillation: a student learns what a teacher would say at every token of answers that are there.

    --data -> train    -> template -> tokens -> teacher's likeliest ids -> training -> student
           -> held out -> template -> tokens -> teacher's likeliest ids -> divergence, loss before and after -> table

The teacher is asked once (`label.topk`), so the trainer holds one network. Both must read with the same tokenizer, but
for `kd_ranked`: there the teacher reads in its own, and its log-probabilities are laid along the student's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import luigi

from datakit.label import Divergence, TopK
from datakit.report import Measure
from datakit.sql import Query
from pipelines.cli.parameters import OptionalWhole
from pipelines.cli.references import model_parameter
from pipelines.commands.one_shot import OneShotOfAnswers, learning_over
from pipelines.graph.backend import model_at
from pipelines.graph.limits import longest_row
from pipelines.graph.model_check import check_top_k, known_ids
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.graph.results import Results
from pipelines.report.figures import Figure, FigureTable, metrics
from pipelines.stages.ask import Reading, asked
from pipelines.stages.losses import losses
from pipelines.stages.taught import taught, taught_across
from trainers.algorithm import Algorithm
from trainers.registry import algorithm_of

_COLUMNS = (
    Figure("model", meaning="the teacher; the student as it came, and after distillation"),
    Figure("held-out rows", ",.0f", meaning="rows that they are judged by"),
    Figure("eval loss", ".4f", meaning="nats for a learnt token of these"),
    Figure("KL from teacher", ".4f", meaning="nats for a learnt token, over the teacher's likeliest ids"),
    Figure("agreement", ".1%", meaning="learnt tokens whose likeliest id of these is the teacher's"),
)
_TOP_K = 100
"""Likeliest ids where nobody says how many: NeMo-Aligner's example."""

_WHEN = ("before", "after")
_LOSSES = tuple(f"loss_{who}.mean" for who in ("teacher", *_WHEN))
_DIVERGED = ", ".join(f"{when}_kl, {when}_agreement" for when in _WHEN)


class Distill(OneShotOfAnswers):
    """A student, `model`, that says what `teacher` says at the tokens of the answers in `data`."""

    example = "--model STUDENT --teacher FOLDER --data rows.jsonl --lr 1e-5"
    unfit = "reads no log-probabilities of a teacher"
    fitting = "an algorithm over teacher_logprobs"
    title, made = "distill", "student"
    needed = ("model", "teacher", "data")

    teacher = model_parameter("teacher", "model")
    top_k = OptionalWhole(
        least=2,  # over one id alone both distributions are the same
        description="likeliest ids of the teacher at every token, 8 bytes each; empty: 100, or as many as models know",
    )
    top_k_dtype = luigi.ChoiceParameter(
        choices=["float32", "float16"],
        default="float32",
        description="type of the teacher's log-probabilities in rows; float16: 6 bytes for each, to 1/2048 of itself",
    )
    algorithm = luigi.Parameter(default="kd", description="algorithm over a teacher's likeliest ids")
    learning = learning_over(optim={"lr": 1e-5})

    def results(self, plan: Plan) -> Results:
        """Both kinds of rows as tokens with the teacher's likeliest ids, the student, and how far it is from the
        teacher on the rows that it did not learn from.
        """
        given = self.one_shot_setup(plan)
        label, first, teacher = given.label, given.model, model_at(plan, self.teacher, "model")
        k = self.top_k or min([_TOP_K, *(size for one in (teacher, first) if (size := known_ids(one)) is not None)])
        check_top_k(k, (teacher, first), "--top-k %d")
        longest = longest_row(self.max_length, [teacher], "--max-length")
        theirs = Reading(rendering=self.rendering, tokenizer=teacher, max_length=longest)
        dtype: Any = self.top_k_dtype
        op = TopK(k=k, dtype=dtype)
        rows = {
            part: taught_across(plan, f"{label}/{part}", op, rows, first, teacher, given.reading, theirs)
            if self._across
            else taught(plan, f"{label}/{part}", op, rows, first, teacher, given.reading)
            for part, rows in given.parts.items()
        }
        train, held_out = rows["train"], rows.get("held-out")
        student = plan.model(
            f"{label}/student", self.training_for(label), data=train, tokenizer=first, init=first, validation=held_out
        )
        results = Results(
            targets=(student,), datasets={"train": train}, checkpoints={"first": first, "student": student}
        )
        if held_out is None:
            return results
        if self._across:
            judged = losses(plan, label, held_out, {"before": first, "after": student})
            figures, datasets = {"evaluation": judged.figures}, {"held_out": held_out, "losses": judged.rows}
            targets = (judged.figures, student)
            return replace(results, targets=targets, datasets={**results.datasets, **datasets}, figures=figures)
        return self._judged(plan, label, results, held_out, teacher)

    @property
    def _across(self) -> bool:
        """Whether the student stands against the teacher by rank, whatever the ids are of."""
        return "teacher_ids" not in algorithm_of(self.algorithm).rows

    def _judged(self, plan: Plan, label: str, results: Results, held_out: Node, teacher: Node) -> Results:
        """`results` and how teacher, student before and after do on the rows `held_out`."""
        first, student = results.checkpoints["first"], results.checkpoints["student"]
        judged = losses(plan, label, held_out, {"teacher": teacher, "before": first, "after": student})
        compared: Node = held_out
        for when, model in zip(_WHEN, (first, student), strict=True):
            compared = asked(plan, f"{label}/divergence-{when}", Divergence(into=when), compared, model)
        query = Query(query=f"SELECT sample_id, {_DIVERGED} FROM rows", tables=("rows",), key=("sample_id",))
        diverged = plan.table(f"{label}/divergence", query, compared)
        measure = Measure(stage=f"{label}/divergence", columns=tuple(_DIVERGED.split(", ")))
        divergence = plan.table(f"{label}/divergence.figures", measure, diverged)
        return replace(
            results,
            targets=(judged.figures, divergence, student),
            datasets={**results.datasets, "held_out": held_out, "losses": judged.rows, "divergence": diverged},
            figures={"evaluation": judged.figures, "divergence": divergence},
        )

    def report(self) -> Sequence[FigureTable]:
        """The loss of teacher and student, and how far the student is from the teacher, before and after."""
        if not self.graph.figures:
            return []
        loss = metrics(self.graph.figures["evaluation"])
        rows, tokens = loss["tokens.count"], loss["tokens.mean"]
        title = f"{self.task_family}: {self.graph.checkpoints['student'].label}"
        per_token = {name[5:-5]: value / tokens for name, value in loss.items() if name in _LOSSES}
        if self._across:
            lines = tuple((f"student {when}", rows, per_token[when]) for when in _WHEN)
            return [FigureTable(title, _COLUMNS[:3], lines)]
        far = metrics(self.graph.figures["divergence"])
        apart = {when: [far[f"{when}_{name}.mean"] / tokens for name in ("kl", "agreement")] for when in _WHEN}
        known = (("teacher", "teacher"), ("student before", "before"), ("student after", "after"))
        judged = tuple((name, rows, per_token[when], *apart.get(when, (0.0, 1.0))) for name, when in known)
        return [FigureTable(title, _COLUMNS, judged)]

    @staticmethod
    def fits(algorithm: Algorithm) -> bool:
        """Whether `algorithm` reads a teacher's log-probabilities."""
        return "teacher_logprobs" in algorithm.rows
