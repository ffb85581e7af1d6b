"""Figures of a dataset as a REPORTS dataset, so that every iteration's evaluation can be queried beside its rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from datakit.op import NOTHING, Context, GatherAll, Result
from schemas import REPORTS, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.stats import std


@dataclass(frozen=True, kw_only=True)
class Measure(GatherAll):
    """Mean, standard deviation and count of `columns`, from the manifest's moments; no row is read.

    `stage` is what the rows of the report are filed under, for example `rest/digits/iter=1`.
    """

    name: ClassVar[str] = "report.measure"

    stage: str
    columns: tuple[str, ...]

    @property
    def takes(self) -> Schema:
        """Any rows; that the columns are there is checked in `gives`."""
        return NOTHING

    def gives(self, *inputs: Schema) -> Schema:
        """REPORTS."""
        missing = [name for name in self.columns if name.removesuffix(".length") not in inputs[0]]
        if missing:
            raise ConfigError(
                "unknown-column", f"{self.name}: no column {', '.join(missing)}", kept="nothing was started"
            )
        return REPORTS

    def gather_all(self, dataset: Dataset, ctx: Context) -> Iterator[Result]:
        """Three rows a column."""
        rows = []
        for column in self.columns:
            stats = dataset.stats["columns"].get(column)
            if stats is None:
                raise ConfigError(
                    "not-a-number",
                    f"{self.name} needs a number in {column}, and there is none",
                    kept="nothing was published",
                    next=f"CAST({column} AS DOUBLE) in the query that makes it",
                )
            figures = {"mean": stats.get("mean", math.nan), "std": std(stats), "count": stats["count"]}
            rows += [(self.stage, f"{column}.{name}", float(value)) for name, value in figures.items()]
        names = ("stage", "metric", "value")
        finite = [row for row in rows if math.isfinite(row[2])]
        yield Result(pa.table({name: [row[i] for row in finite] for i, name in enumerate(names)}, schema=REPORTS.arrow))
