"""report.measure: figures of a dataset as a REPORTS dataset, so that evaluations can be queried beside their rows."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from datakit.columns.measurement import require_columns
from datakit.formats.size import ID_BYTES
from datakit.op import NOTHING, Context, GatherAll, Result, Size
from schemas import REPORTS, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError
from schemas.stats import std
from schemas.store.storage import relative, shown


@dataclass(frozen=True, kw_only=True)
class Measure(GatherAll):
    """Mean, standard deviation and count of `columns`, from the manifest's moments; no row is read.

    `stage` is what the rows of the report are filed under, for example `rest/digits/iter=1`.
    """

    name: ClassVar[str] = "report.measure"
    version: ClassVar[int] = 2

    stage: str
    columns: tuple[str, ...]

    @property
    def takes(self) -> Schema:
        """Any rows; that the columns are there is checked in `gives`."""
        return NOTHING

    def gives(self, *inputs: Schema) -> Schema:
        """REPORTS; `ConfigError` for a column that is not there or has no moments."""
        require_columns(inputs[0], [name.removesuffix(".length") for name in self.columns], self.name)
        for name in self.columns:
            column = name.removesuffix(".length")
            kind = inputs[0][column].type
            kind_read, fits = "list", pa.types.is_list(kind)
            if column == name:
                kind_read, fits = "number", pa.types.is_integer(kind) or pa.types.is_floating(kind)
            if not fits:
                raise ConfigError(
                    "not-a-number",
                    f"{self.name} needs a {kind_read} in {column}, which is {kind}",
                    kept="nothing was started",
                    next=f"CAST({column} AS DOUBLE) in the query that makes it" if column == name else "",
                )
        return REPORTS

    def grown(self, given: Size) -> Size:
        return Size(3 * len(self.columns), 3 * len(self.columns) * ID_BYTES)

    def gather_all(self, dataset: Dataset, ctx: Context) -> Iterator[Result]:
        """Mean, standard deviation and count of every column, as three rows of (metric, value); `DataError` where
        there is no row, and so no moment.
        """
        if not dataset.num_rows:
            place = dataset.url if "://" in dataset.url else relative(dataset.url)
            raise DataError(
                "no-rows",
                f"there is nothing to measure for {self.stage}: {shown(dataset.url)} has no rows",
                expected="at least one row",
                where=shown(dataset.url),
                kept="every finished stage",
                next=f"quiver show {shlex.quote(place)}",
            )
        rows = []
        for column in self.columns:
            stats = dataset.stats["columns"][column]
            figures = {"mean": stats.get("mean", math.nan), "std": std(stats), "count": stats["count"]}
            rows += [(self.stage, f"{column}.{name}", float(value)) for name, value in figures.items()]
        names = ("stage", "metric", "value")
        finite = [row for row in rows if math.isfinite(row[2])]
        yield Result(pa.table({name: [row[i] for row in finite] for i, name in enumerate(names)}, schema=REPORTS.arrow))
