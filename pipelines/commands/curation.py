"""Curation as commands: a dataset given as a query over others, and answers with the marks that people gave them.

    quiver Query --name curated/right --data digits/pair-verified --query "SELECT * FROM self WHERE correct = 1"
    quiver Mark --name curated/marked --data rest/digits/iter=1/samples --marks marks.csv

Rows are dataset folders, files, or names of `quiver ls`. `pipelines.commit` and `pipelines.mark` make the same from
Python: the same task under the same key, so either finds done what the other has made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import luigi

import schemas
from datakit.label import Human
from datakit.sql import Query as QueryOp
from pipelines.cli import invocation
from pipelines.commands.files import ReadsFiles
from pipelines.commands.stages import StageCommand
from pipelines.graph.node import Node, rows_of
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import names_in
from pipelines.runtime import settings
from schemas import Schema
from schemas.errors import ConfigError, printable

SELF = "self"
"""What the only dataset of a query is called, as in `Dataset.sql`."""

_KINDS = {one.name: one for one in vars(schemas).values() if isinstance(one, Schema)}
"""Row kinds by name: what is committed as one of them must have no nulls where that has none."""

NO_KEY = "-"
"""The `--key` of rows that have none."""


class Query(ReadsFiles, StageCommand):
    """A dataset given as one SELECT over others: what a look at them with SQL found, kept under a name."""

    example = "--name curated/best --data SAMPLES --query 'SELECT * FROM self WHERE reward > 0'"

    data = luigi.Parameter(description="dataset folders, files or names of quiver ls, divided by commas")
    tables = luigi.Parameter(
        default="", description=f"what the query calls them, in their order, divided by commas; empty: {SELF}, of one"
    )
    query = luigi.Parameter(description="one SELECT over these tables (sql.query)")
    key = luigi.Parameter(
        default="",
        description="columns that no two rows share, divided by commas; empty: the first table's where they come out; "
        f"{NO_KEY}: none",
    )
    kind = luigi.Parameter(
        default="",
        description="what the rows are; of a known kind (preferences, ...) they hold no nulls where that has none; "
        "empty: as the first table's where its columns all come out",
    )

    def build(self, plan: Plan) -> Sequence[Node]:
        """The inputs, and the query over them."""
        places = names_in(self.data)
        if not places:
            raise ConfigError(
                "missing-input", "a query reads rows; no --data was given", kept="nothing was started",
                next=invocation.completed("--data FOLDER_OR_NAME"),
            )  # fmt: skip
        tables = names_in(self.tables) or [SELF]
        if len(tables) != len(places):
            raise ConfigError(
                "bad-setting", f"--tables names {len(tables)}, --data has {len(places)}",
                expected="a table for each, in their order", found=printable(", ".join(tables), 200),
                kept="nothing was started", next=invocation.completed("--tables " + _numbered(len(places))),
            )  # fmt: skip
        inputs = [self.rows(plan, place) for place in places]
        op = _typed(QueryOp(query=self.query, tables=tuple(tables)), inputs, self.kind, self.key)
        return [plan.table(self.label(*places), op, *inputs, seed=settings.quiver_config().seed)]


class Mark(ReadsFiles, StageCommand):
    """Answers with the marks that people gave them: good, bad, or how it should have been said."""

    example = "--name curated/marked --data SAMPLES --marks marks.csv"
    usual_format = "marks"

    data = luigi.Parameter(description="the samples that were looked at: a dataset folder, or a name of quiver ls")
    marks = luigi.Parameter(
        description="file or dataset of marks: sample_id; mark: good, bad or edited; edited: the answer as it should be"
    )

    def build(self, plan: Plan) -> Sequence[Node]:
        """The samples that were marked, with what was said of them."""
        samples = plan.existing(self.data, "dataset")
        given = self.rows(plan, self.marks)
        return [plan.table(self.label(self.data, self.marks), Human(), samples, given)]


def _numbered(count: int) -> str:
    return ",".join(f"t{number}" for number in range(1, count + 1))


def _typed(op: QueryOp, inputs: Sequence[Node], kind: str, key: str) -> QueryOp:
    """`op` with the kind and the key that are given, or else those of its first input where they hold."""
    first, made = rows_of(inputs[0]), op.gives(*(rows_of(node) for node in inputs))
    kept = first.key if all(name in made for name in first.key) else ()
    own = () if key == NO_KEY else tuple(names_in(key)) or kept
    same = all(column.name in made for column in first.columns)
    named_kind = kind or (first.name if same else op.kind)
    whole = [one.name for one in _KINDS.get(named_kind, made).columns if not one.nullable and one.name in made]
    return replace(op, kind=named_kind, key=own, required=tuple(name for name in whole if made[name].nullable))
