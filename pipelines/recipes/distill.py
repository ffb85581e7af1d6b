"""Distillation: a student learns what a teacher would say at every token of answers that are there.

    --data -> train    -> template -> tokens -> teacher's likeliest ids -> training -> student
           -> held out -> template -> tokens -> teacher's likeliest ids -> divergence, loss before and after -> table

The teacher is asked once (`label.topk`), so the trainer holds one network. Both must read with the same tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import luigi

from datakit.label import Divergence, TopK
from datakit.report import Measure
from datakit.sql import Query
from pipelines.cli.parameters import OptionalWhole
from pipelines.cli.references import model_parameter
from pipelines.commands.one_shot import OneShotOfAnswers, learning_over
from pipelines.graph.backend import model_at
from pipelines.graph.model_check import check_top_k, known_ids
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.graph.results import Results
from pipelines.report.figures import Figure, FigureTable, metrics
from pipelines.stages.ask import asked
from pipelines.stages.losses import losses, token_rows
from trainers.algorithm import Algorithm

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
_DIVERGED = ", ".join(f"{when}_kl, {when}_agreement" for when in _WHEN)


class Distill(OneShotOfAnswers):
    """A student, `model`, that says what `teacher` says at the tokens of the answers in `data`."""

    example = "--model STUDENT --teacher FOLDER --data rows.jsonl --lr 1e-5"
    unfit = "reads no likeliest ids of a teacher"
    fitting = "an algorithm over teacher_ids"
    title, made = "distill", "student"
    needed = ("model", "teacher", "data")

    teacher = model_parameter("teacher", "model")
    top_k = OptionalWhole(
        description="likeliest ids of the teacher at every token, 8 bytes each; empty: 100, or as many as models know"
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
        rows = {
            part: asked(
                plan,
                f"{label}/{part}",
                TopK(k=k),
                token_rows(plan, f"{label}/{part}", rows, first, given.reading),
                teacher,
            )
            for part, rows in given.parts.items()
        }
        train, held_out = rows["train"], rows.get("held-out")
        student = plan.model(
            f"{label}/student", self.training_for(label), data=train, tokenizer=first, init=first, validation=held_out
        )
        results = Results(
            targets=(student,), datasets={"train": train}, checkpoints={"first": first, "student": student}
        )
        return results if held_out is None else self._judged(plan, label, results, held_out, teacher)

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
        loss, far = (metrics(self.graph.figures[name]) for name in ("evaluation", "divergence"))
        rows, tokens = loss["tokens.count"], loss["tokens.mean"]
        apart = {when: [far[f"{when}_{name}.mean"] / tokens for name in ("kl", "agreement")] for when in _WHEN}
        lines = tuple(
            (name, rows, loss[f"loss_{when}.mean"] / tokens, *apart.get(when, (0.0, 1.0)))
            for name, when in (("teacher", "teacher"), ("student before", "before"), ("student after", "after"))
        )
        return [FigureTable(f"{self.task_family}: {self.graph.checkpoints['student'].label}", _COLUMNS, lines)]

    @staticmethod
    def fits(algorithm: Algorithm) -> bool:
        """Whether `algorithm` reads a teacher's ids."""
        return "teacher_ids" in algorithm.rows
