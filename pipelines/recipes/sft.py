"""Supervised fine-tuning: a model learns the answers of a file, and is held against itself on rows that it never saw.

    --data -> train    -> template -> tokens, mask -> (packs) -> training -> policy
           -> held out -> template -> tokens, mask -> loss before, loss after -> table

Of a question with an answer the answer is learnt, of a conversation every turn of the assistant.
"""

from __future__ import annotations

from collections.abc import Sequence

import luigi

from datakit.tokenize import Pack
from pipelines.commands.algorithm_kinds import LearnsAnswers
from pipelines.commands.one_shot import OneShotOfAnswers, learning_over
from pipelines.graph.plan import Plan
from pipelines.graph.results import Results
from pipelines.report.figures import Figure, FigureTable, metrics, perplexity
from pipelines.stages.losses import learnt_share, losses, token_rows

_COLUMNS = (
    Figure("rows", ",.0f", meaning="rows that are learnt from"),
    Figure("trained tokens", ".1%", meaning="share of their tokens that is learnt"),
    Figure("held-out rows", ",.0f", meaning="rows that the model is judged by"),
    Figure(
        "eval loss before",
        ".4f",
        meaning="nats for a learnt token of these, by the model as it came",
        change="eval loss",
    ),
    Figure("eval loss after", ".4f", meaning="the same by the trained model", change="eval loss"),
    Figure("perplexity before", ",.2f", meaning="exp of that loss (inf: beyond floats)", change="perplexity"),
    Figure("perplexity after", ",.2f", meaning="the same by the trained model", change="perplexity"),
)


class Sft(LearnsAnswers, OneShotOfAnswers):
    """A model that learnt the answers of `data`; `eval_data`, or a share of them, says how well."""

    example = "--model FOLDER --data rows.jsonl --lr 1e-5"
    title = "sft"

    algorithm = luigi.Parameter(default="sft", description="algorithm over answers one by one")
    learning = learning_over(optim={"lr": 1e-5})
    packing = luigi.BoolParameter(description="learn from packs of max_length tokens; batch_size then counts packs")

    def results(self, plan: Plan) -> Results:
        """Both kinds of rows as tokens, the policy, and its loss on the rows that it did not learn from."""
        given = self.one_shot_setup(plan)
        label, first = given.label, given.model
        rows = {
            part: token_rows(plan, f"{label}/{part}", rows, first, given.reading) for part, rows in given.parts.items()
        }
        train, held_out = rows["train"], rows.get("held-out")
        share = learnt_share(plan, label, train)
        if self.packing:
            assert given.reading.max_length is not None
            train = plan.table(f"{label}/packs", Pack(capacity=given.reading.max_length), train, seed=self.settled_seed)
        policy = plan.model(
            f"{label}/policy", self.training_for(label), data=train, tokenizer=first, init=first, validation=held_out
        )
        datasets, figures = {"train": train}, {"learnt": share}
        if held_out is not None:
            judged = losses(plan, label, held_out, {"before": first, "after": policy})
            datasets |= {"held_out": held_out, "losses": judged.rows}
            figures["evaluation"] = judged.figures
        return Results(
            targets=(*figures.values(), policy),
            datasets=datasets,
            checkpoints={"first": first, "policy": policy},
            figures=figures,
        )

    def report(self) -> Sequence[FigureTable]:
        """What was learnt from, and the loss on what was not."""
        learnt = metrics(self.graph.figures["learnt"])
        row: tuple[float, ...] = (learnt["tokens.count"], learnt["learnt.mean"] / learnt["tokens.mean"])
        if "evaluation" in self.graph.figures:
            figures = metrics(self.graph.figures["evaluation"])
            before, after = (figures[f"loss_{when}.mean"] / figures["tokens.mean"] for when in ("before", "after"))
            row = (*row, figures["tokens.count"], before, after, perplexity(before), perplexity(after))
        title = f"{self.task_family}: {self.graph.checkpoints['policy'].label}"
        return [FigureTable(title, _COLUMNS[: len(row)], (row,))]
