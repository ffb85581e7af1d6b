"""label.standardize: (reward - mean) / std, with given moments or with those of the whole input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc

from datakit.op import Context, Label
from schemas import Column, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError
from schemas.stats import std as std_of


@dataclass(frozen=True, kw_only=True)
class Standardize(Label):
    """`column` brought to mean 0 and standard deviation 1, in float64.

    `mean` and `std` are both given, or both measured over the input (`std` unbiased, n - 1, from the
    manifest's stats). Where all values are equal there is no scale: `zero_std` says whether that is an
    error or gives 0 everywhere.
    """

    name: ClassVar[str] = "label.standardize"
    judges: ClassVar[bool] = True
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ({"output": "score"},)

    column: str = "reward"
    output: str = ""
    """Name of the new column; empty: `column` is replaced."""
    mean: float | None = None
    std: float | None = None
    zero_std: Literal["error", "zero"] = "error"

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise ConfigError("bad-setting", "mean and std are given together, or measured together", where=self.name)
        if self.std is not None and not (self.std >= 0 and math.isfinite(self.std) and math.isfinite(self.mean or 0.0)):
            raise ConfigError(
                "bad-setting", f"std {self.std}, mean {self.mean}: finite, std at least 0", where=self.name
            )

    @property
    def takes(self) -> Schema:
        return Schema("numbers", 1, (Column(self.column, pa.float64(), "what is standardized", finite=True),))

    @property
    def adds(self) -> tuple[Column, ...]:
        name = self.output or self.column
        return (Column(name, pa.float64(), f"{self.column} less its mean, over its standard deviation", finite=True),)

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """Mean and standard deviation; `DataError` where there is no scale and `zero_std` is "error"."""
        mean, std = (self.mean, self.std) if self.mean is not None else self._measured(dataset)
        if std == 0 and self.zero_std == "error":
            raise DataError(
                "zero-std",
                f"{self.column} has the same value everywhere: it cannot be standardized",
                found=f"mean {mean}, standard deviation 0",
                where=dataset.url,
                kept="nothing was started",
                next="look at what gave these values, or set zero_std to zero",
            )
        return {"mean": mean, "std": std}

    def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.ChunkedArray]:
        mean, std = ctx.prepared["mean"], ctx.prepared["std"]
        distance = pc.subtract(rows[self.column], pa.scalar(mean, pa.float64()))
        if std == 0:
            return {self.adds[0].name: pc.multiply(distance, 0.0)}
        return {self.adds[0].name: pc.divide(distance, pa.scalar(std, pa.float64()))}

    def _measured(self, dataset: Dataset) -> tuple[float, float]:
        if dataset.num_rows == 0:
            return 0.0, 1.0
        stats = dataset.stats["columns"][self.column]
        if stats["min"] == stats["max"] or stats["count"] == 1:
            return stats["min"], 0.0
        if "mean" not in stats:
            raise DataError(
                "no-standard-deviation",
                f"{self.column} has numbers so far apart that float64 holds no standard deviation of them",
                found=f"{stats['min']:g} .. {stats['max']:g}",
                where=dataset.url,
                kept="nothing was started",
                next="drop such rows (filter.threshold), or give mean and std",
            )
        return stats["mean"], std_of(stats)
