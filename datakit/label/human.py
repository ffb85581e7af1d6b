"""label.human: what people said of answers, beside the answers: good, bad, or how it should have been said.

    samples, marks -> the samples that were marked, with `mark`, `edited`, `note` and a number for the view of rewards

An edited answer above the one that was drawn is a pair (`blend.pair_answer` with `column` edited), a good one above a
bad one of the same prompt too (`blend.pair`, rule right_vs_wrong, `column` human); `filter.where` keeps the good ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from datakit.columns.rejections import set_aside
from datakit.op import Blend, Context, Result
from schemas import MARKS, Column, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError
from schemas.frames import to_polars

if TYPE_CHECKING:
    from polars import DataFrame

GOOD, BAD, EDITED = WORDS = ("good", "bad", "edited")
_ROWS = 65536


@dataclass(frozen=True, kw_only=True)
class Human(Blend):
    """Of samples and marks (in this order) the samples that were marked, with the mark, an edited answer and a note.

    `output` is 1 for a good answer and 0 for one that is bad or had to be edited. A row with an edited answer and no
    mark is `edited`. Marks that cannot be are rejected: without a mark (unmarked), with another word (unknown-mark), of
    no sample that there is (unknown-sample), edited without a text (no-edited), good or bad with one (edited-too), of a
    sample that was marked so already (repeated), or otherwise too (contradictory: none of them stays).
    """

    name: ClassVar[str] = "label.human"
    loses_rows: ClassVar[bool] = True
    judges: ClassVar[bool] = True

    output: str = "human"

    def __post_init__(self) -> None:
        if not self.output or self.output in MARKS:
            raise ConfigError(
                "bad-setting", f"{self.name}: output must be a column of its own, not {self.output!r}",
                kept="nothing was started",
            )  # fmt: skip

    @property
    def takes(self) -> Schema:
        """The ids by which marks meet their samples."""
        return MARKS.selecting("sample_id").renamed("identified")

    def gives(self, *inputs: Schema) -> Schema:
        """The columns of the samples, and what was said of them."""
        if len(inputs) != 2:
            raise ConfigError(
                "inputs", f"{self.name} takes samples and then marks", expected="two inputs",
                found=f"{len(inputs)}", kept="nothing was started", next="quiver formats marks",
            )  # fmt: skip
        inputs[1].requires(MARKS, f"the marks of {self.name}")
        if inputs[0].key not in ((), ("sample_id",)) or self.output in inputs[0]:
            raise ConfigError(
                "inputs", f"{self.name}: rows with a key {', '.join(inputs[0].key)} and a column {self.output} are not "
                "samples without marks", expected="samples, and an output that they do not have",
                kept="nothing was started",
            )  # fmt: skip
        number = Column(self.output, pa.float64(), "1: a person said good; 0: bad, or edited it", finite=True)
        mark = Column("mark", pa.string(), f"what a person said of it: {', '.join(WORDS)}")
        return inputs[0].adding(number, mark, MARKS["edited"], MARKS["note"])

    def blend(self, inputs: Sequence[Dataset], ctx: Context) -> Iterator[Result]:
        """The marked samples in their order, then the marks that none of them has."""
        import polars as pl

        samples, schema = inputs[0], self.gives(*(given.schema for given in inputs))
        marks = _checked(to_polars(inputs[1].read(MARKS.names)))
        yield Result(schema.empty(), _rejected(marks.filter(pl.col("reason") != "")))
        usable = marks.filter(pl.col("reason") == "").drop("reason")
        waiting = usable
        for shard in range(len(samples.shards)):
            for rows in samples.batches(shard, _ROWS):
                ids = to_polars(rows.select(["sample_id"])).with_row_index("row")
                matched = ids.join(usable, on="sample_id", how="inner", maintain_order="left")
                waiting = waiting.join(matched, on="sample_id", how="anti")
                if matched.height:
                    yield Result(self._marked(rows, matched, schema))
        if usable.height and waiting.height == usable.height:
            raise DataError(
                "no-marks",
                f"none of {usable.height:,} marks is on one of these samples, the first on {usable['sample_id'][0]}",
                expected="ids of these samples, in the column sample_id", where=inputs[1].url, kept="nothing of this",
                next="give the samples that were looked at",
            )  # fmt: skip
        yield Result(schema.empty(), _rejected(waiting.with_columns(reason=pl.lit("unknown-sample"))))

    def _marked(self, rows: pa.Table, matched: DataFrame, schema: Schema) -> pa.Table:
        import polars as pl

        table = rows.take(matched["row"].to_arrow())
        number = (matched["mark"] == GOOD).cast(pl.Float64)
        given = {self.output: number, **{name: matched[name] for name in ("mark", "edited", "note")}}
        kept = [name for name in table.column_names if name not in given]
        columns = {name: table[name] for name in kept} | {name: one.to_arrow() for name, one in given.items()}
        return schema.conform(pa.table(columns).cast(pa.schema([schema.arrow.field(name) for name in columns])))


def _checked(marks: DataFrame) -> DataFrame:
    """The marks in small letters, each with the reason for which it cannot be; empty where it can."""
    import polars as pl

    text = pl.when(pl.col("edited").str.strip_chars() != "").then(pl.col("edited"))
    word = pl.col("mark").str.strip_chars().str.to_lowercase()
    read = marks.with_columns(edited=text, mark=pl.when(word != "").then(word))
    read = read.with_columns(mark=pl.coalesce("mark", pl.when(pl.col("edited").is_not_null()).then(pl.lit(EDITED))))
    is_edited = pl.col("mark") == EDITED
    own = (
        pl.when(pl.col("mark").is_null()).then(pl.lit("unmarked"))
        .when(~pl.col("mark").is_in(WORDS)).then(pl.lit("unknown-mark"))
        .when(is_edited & pl.col("edited").is_null()).then(pl.lit("no-edited"))
        .when(~is_edited & pl.col("edited").is_not_null()).then(pl.lit("edited-too"))
        .otherwise(pl.lit(""))
    )  # fmt: skip
    judged = read.with_columns(reason=own)
    twice = judged.filter(pl.col("reason") == "").group_by("sample_id")
    different = twice.agg(different=pl.struct("mark", "edited").n_unique() > 1)
    joined = judged.join(different, on="sample_id", how="left", maintain_order="left")
    usable = pl.col("reason") == ""
    again = (pl.when(usable).then(pl.col("sample_id")).cum_count().over("sample_id", "reason") > 1) & usable
    reason = (
        pl.when(usable & pl.col("different")).then(pl.lit("contradictory"))
        .when(again).then(pl.lit("repeated")).otherwise("reason")
    )  # fmt: skip
    return joined.with_columns(reason=reason).drop("different")


def _rejected(marks: DataFrame) -> pa.Table:
    """Marks that do not stay, with why, and the words that there are beside another one."""
    import polars as pl

    words = pl.when(pl.col("reason") == "unknown-mark").then(pl.lit(", ".join(WORDS)))
    shown = marks.with_columns(threshold=words)
    rows = marks.select(MARKS.names).to_arrow().cast(MARKS.arrow.remove_metadata())
    return set_aside(rows, shown["reason"].cast(pl.String).to_arrow().cast(pa.string()),
                     threshold=shown["threshold"].cast(pl.String).to_arrow().cast(pa.string()))  # fmt: skip
