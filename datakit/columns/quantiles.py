"""Quantiles that merge: the distinct values of a column and how often each occurs.

Exact up to `EXACT` distinct values. Beyond that, values that agree in sign, exponent and ten bits of mantissa
(0.1 %) share a cell, which keeps its largest value. Cells merge by addition and maximum, so the quantiles of
a dataset do not depend on how its rows were cut into shards or who counted them first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

EXACT = 1 << 16
_CELL_SHIFT = 52 - 10

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Quantiles:
    """Ascending cells (float64) and the number of values in each."""

    cells: Floats
    counts: Ints
    folded: bool = False

    @staticmethod
    def of(column: pa.ChunkedArray | pa.Array) -> Quantiles:
        """The quantiles of the finite values of a numeric column; -0.0 counts as 0.0."""
        values: Floats = column.drop_null().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) + 0.0
        cells, counts = np.unique(values[np.isfinite(values)], return_counts=True)
        return Quantiles(cells, counts)._settled()

    @property
    def count(self) -> int:
        """How many values."""
        return int(self.counts.sum())

    def merged(self, other: Quantiles) -> Quantiles:
        """The quantiles of the values of both."""
        folded = self.folded or other.folded
        parts = [part._fold() if folded else part for part in (self, other)]
        cells, where = np.unique(np.concatenate([part.cells for part in parts]), return_inverse=True)
        counts = np.zeros(len(cells), np.int64)
        np.add.at(counts, where, np.concatenate([part.counts for part in parts]))
        return Quantiles(cells, counts, folded)._settled()

    def at(self, share: float) -> float:
        """The value below which `share` of the values lie, interpolated as numpy does by default."""
        assert self.count, "no value, no quantile"
        ends = np.cumsum(self.counts)
        place = share * (self.count - 1)
        low = math.floor(place)
        ranks = np.searchsorted(ends, [low, min(low + 1, self.count - 1)], side="right")
        below, above = (float(self.cells[rank]) for rank in ranks)
        return below if below == above else below + (above - below) * (place - low)

    def percentiles(self) -> list[float]:
        """The 0th to 100th percentile; none of no values."""
        return [self.at(p / 100) for p in range(101)] if self.count else []

    def _settled(self) -> Quantiles:
        return self._fold() if self.folded or len(self.cells) > EXACT else self

    def _fold(self) -> Quantiles:
        if len(self.cells) == 0:
            return Quantiles(self.cells, self.counts, True)
        marks = self.cells.view(np.int64) >> _CELL_SHIFT
        starts = np.flatnonzero(np.concatenate([[True], marks[1:] != marks[:-1]]))
        lasts = np.concatenate([starts[1:], [len(marks)]]) - 1
        return Quantiles(self.cells[lasts], np.add.reduceat(self.counts, starts), True)


def numbers(table: pa.Table) -> pa.Table:
    """The numeric columns as float64, and the lengths of lists of integers under `<name>.length`."""
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            columns[name] = column.cast(pa.float64(), safe=False)
        elif pa.types.is_list(kind) and pa.types.is_integer(kind.value_type):
            columns[f"{name}.length"] = pc.list_value_length(column).cast(pa.float64())
    return pa.table(columns)


def merge(parts: Iterable[Mapping[str, Quantiles]]) -> dict[str, Quantiles]:
    """The quantiles of all parts by name."""
    whole: dict[str, Quantiles] = {}
    for part in parts:
        for name, quantiles in part.items():
            whole[name] = whole[name].merged(quantiles) if name in whole else quantiles
    return whole
