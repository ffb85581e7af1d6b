"""measure.difference: a column of two datasets on the prompts that both have, paired, with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns import bootstrap
from datakit.columns.measurement import TIED_WITHIN, numbers, require_columns, require_number
from datakit.formats.size import ID_BYTES
from datakit.op import NOTHING, Blend, Context, Result, Size
from schemas import REPORTS, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Difference(Blend):
    """`difference`, the mean of `column` in the first dataset less that in the second over the prompts that both have
    (each prompt's answers count as their mean), and `wins`, the share of prompts on which the first is higher, a tie
    as half; each with its 95 % interval (`.low`, `.high`) over prompts. `prompts` are those of both, `only_first` and
    `only_second` the others, with a number that is finite. Means that rounding alone tells apart are a tie; rows that
    name no prompt are left out.
    """

    name: ClassVar[str] = "measure.difference"
    version: ClassVar[int] = 2

    column: str
    group: str = "prompt_id"
    stage: str = "difference"
    draws: int = 2000

    def __post_init__(self) -> None:
        if self.draws < 100:
            raise ConfigError("bad-setting", f"{self.name}: {self.draws} draws", expected="at least 100 draws",
                              kept="nothing was started")  # fmt: skip

    @property
    def takes(self) -> Schema:
        """Any rows; that the columns are there is checked in `gives`."""
        return NOTHING

    def gives(self, *inputs: Schema) -> Schema:
        if len(inputs) != 2:
            raise ConfigError("bad-setting", f"{self.name} holds two datasets against each other, not {len(inputs)}",
                              expected="two inputs", kept="nothing was started")  # fmt: skip
        for schema in inputs:
            require_number(schema, self.column, self.name)
            require_columns(schema, (self.group,), self.name)
        return REPORTS

    def grown(self, given: Size) -> Size:
        return Size(9, 9 * ID_BYTES)

    def blend(self, inputs: Sequence[Dataset], ctx: Context) -> Iterator[Result]:
        """The figures of both together."""
        one, other = (self._means(dataset) for dataset in inputs)
        both = [name for name in one if name in other]
        means_GD = np.array([(one[name], other[name]) for name in both]).reshape(-1, 2)
        gap_G = means_GD[:, 0] - means_GD[:, 1]
        tied_G = np.abs(gap_G) <= TIED_WITHIN * np.maximum(1.0, np.abs(means_GD).max(axis=1))
        won_G = np.where(tied_G, 0.5, gap_G > 0)
        figures: dict[str, float] = {}
        for name, values_G in (("difference", gap_G), ("wins", won_G)):
            sums_GD = np.stack([values_G, np.ones(len(both))], axis=1)
            made = bootstrap.interval(sums_GD, bootstrap.mean, ctx.rng(self.name, self.column), self.draws)
            figures |= bootstrap.with_ends(name, "", made)
        counts = {"prompts": len(both), "only_first": len(one) - len(both), "only_second": len(other) - len(both)}
        yield Result(bootstrap.report(self.stage, {**figures, **counts}))

    def _means(self, dataset: Dataset) -> dict[str, float]:
        """The mean of every prompt that has a finite number, by its name."""
        rows = dataset.read(columns=[self.group, self.column])
        values_R = numbers(rows[self.column])
        known = np.isfinite(values_R) & np.asarray(pc.is_valid(rows[self.group]))
        names = rows[self.group].cast(pa.string()).filter(known)
        sums_GD = bootstrap.per_group(np.stack([values_R[known], np.ones(known.sum())], axis=1), names)
        first = names.combine_chunks().unique().to_pylist() if len(names) else []
        return dict(zip(first, (sums_GD[:, 0] / sums_GD[:, 1]).tolist(), strict=True))
