"""measure.mean: means of columns, with intervals and by slice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from datakit.columns import bootstrap
from datakit.columns.measurement import numbers, require_columns, require_number
from datakit.formats.size import ID_BYTES
from datakit.op import NOTHING, Context, GatherAll, Result, Size
from schemas import REPORTS, Schema
from schemas.canonical import DEFAULT_UNNAMED
from schemas.dataset import Dataset
from schemas.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Mean(GatherAll):
    """`<column>`, its 95 % interval (`.low`, `.high`) and `.rows`, over the rows in which it is finite; likewise for
    every value of each of `slices`, as `<column>[source=web]`. Rows of one `group` are resampled together. A row counts
    once, or as often as the column says that `weights` names for its number.
    """

    name: ClassVar[str] = "measure.mean"

    columns: tuple[str, ...]
    group: str = "prompt_id"
    """Empty: every row is a group of its own."""
    slices: tuple[str, ...] = ()
    stage: str = "mean"
    draws: int = 2000
    weights: Mapping[str, str] = field(default_factory=dict, metadata=DEFAULT_UNNAMED)

    def __post_init__(self) -> None:
        if self.draws < 100 or not self.columns:
            raise ConfigError("bad-setting", f"{self.name}: {self.draws} draws of {len(self.columns)} columns",
                              expected="draws >= 100, at least one column", kept="nothing was started")  # fmt: skip

    @property
    def takes(self) -> Schema:
        """Any rows; that the columns are there is checked in `gives`."""
        return NOTHING

    def gives(self, *inputs: Schema) -> Schema:
        for column in (*self.columns, *self.weights.values()):
            require_number(inputs[0], column, self.name)
        require_columns(inputs[0], bootstrap.keyed_by(self.group, self.slices), self.name)
        return REPORTS

    def grown(self, given: Size) -> Size:
        return Size(4 * len(self.columns), 4 * len(self.columns) * ID_BYTES)

    def gather_all(self, dataset: Dataset, ctx: Context) -> Iterator[Result]:
        """The figures of every slice."""
        named = bootstrap.keyed_by(self.group, self.slices)
        rows = dataset.read(columns=[*dict.fromkeys((*self.columns, *self.weights.values(), *named))])
        figures: dict[str, float] = {}
        for slice_name, here in bootstrap.sliced(rows, self.slices):
            for column in self.columns:
                values_R = np.where(here, numbers(rows[column]), np.nan)
                weights_R = numbers(rows[self.weights[column]]) if column in self.weights else np.ones(len(values_R))
                known = np.isfinite(values_R) & np.isfinite(weights_R)
                sums_RD = np.stack([(values_R * weights_R)[known], weights_R[known]], axis=1)
                keys = rows[self.group].filter(known) if self.group else None
                rng = ctx.rng(self.name, column, slice_name)
                made = bootstrap.interval(bootstrap.per_group(sums_RD, keys), bootstrap.mean, rng, self.draws)
                figures |= bootstrap.with_ends(column, slice_name, made)
                figures[f"{column}.rows{slice_name}"] = float(known.sum())
        yield Result(bootstrap.report(self.stage, figures))
