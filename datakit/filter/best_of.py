"""The best k answers of every prompt by a number: best-of-n, rejection sampling.

Rank is by (`column` descending, `sample_index` ascending). A value that is null, NaN or infinite never wins. All
samples of a prompt must lie in one shard: `prepare` looks. One sort of number columns; texts are only copied out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.measurement import NOT_FINITE, groups, measured, numbers, require_number
from datakit.columns.rejections import ids_and_numbers, set_aside
from datakit.duck.whole import require_whole
from datakit.op import Context, Gather, Result
from schemas import Column, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.manifest import Manifest

_GROUPS, _EQUAL = "groups", "groups_of_one_value"


@dataclass(frozen=True, kw_only=True)
class BestOf(Gather):
    """Keep the `k` rows of each `key` with the highest `column`, in the order of the input.

    Of rows that are equal at the edge the `first` or the `last` by sample index stays, or `all` of them (then
    more than k may stay). NeMo-Aligner's offline rejection sampling keeps the first, its online one the last.
    Rows that go are set aside with the value they had and the value that was needed; of their own columns
    they keep ids and numbers, because fifteen answers of sixteen would otherwise be stored a second time
    (their texts: join by `sample_id` with the input).
    """

    name: ClassVar[str] = "filter.best_of"

    k: int = 1
    column: str = "reward"
    key: str = "prompt_id"
    ties: Literal["first", "last", "all"] = "first"

    def __post_init__(self) -> None:
        if not 1 <= self.k < 1 << 31:
            raise ConfigError("bad-setting", f"filter.best_of: k is {self.k}, not 1 .. 2**31 - 1")

    @property
    def takes(self) -> Schema:
        """The key and the sample's place in its group; the number is checked in `gives`."""
        key = Column(self.key, pa.string(), "rows with the same value compete")
        place = Column("sample_index", pa.int32(), "the sample's place among its prompt's")
        return Schema("candidates", 1, (key, place))

    def gives(self, *inputs: Schema) -> Schema:
        require_number(inputs[0], self.column, self.name)
        return inputs[0]

    @property
    def reported_means(self) -> tuple[str, ...]:
        """That by which answers win."""
        return (self.column,)

    def notes(self, made: Manifest) -> tuple[str, ...]:
        """In how many groups no answer was better than another."""
        counts = made.stats.get("counts", {})
        equal, count = (int(counts.get(name, 0)) for name in (_EQUAL, _GROUPS))
        note = f"in {equal:,} of {count:,} groups all answers have the same {self.column}: what stays is no better"
        return (note,) if equal else ()

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """`DataError` where the samples of one prompt lie in two shards."""
        require_whole(dataset, self.key, self.name)
        return {}

    def gather(self, rows: pa.Table, ctx: Context) -> Result:
        """The winners, and everyone else with a reason."""
        group, values = groups(rows[self.key]), numbers(rows[self.column])
        keep, edge = winners(group, values, np.asarray(rows["sample_index"]), self.k, self.ties)
        lost = measured(values[~keep])
        needed = pa.array([f"top {self.k}: {value:.6g}" for value in edge], pa.string())
        reason = pc.if_else(pc.is_null(lost), NOT_FINITE, "not-best")
        lighter = ids_and_numbers(rows, self.key, "sample_id").filter(pa.array(~keep))
        rejected = set_aside(lighter, reason, lost, needed.take(pa.array(group[~keep])))
        counts = {_GROUPS: len(edge), _EQUAL: _equal(group, values)}
        return Result(rows.filter(pa.array(keep)), rejected, counts)


def winners(
    group: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    index: npt.NDArray[np.int32],
    k: int,
    ties: Literal["first", "last", "all"],
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Which rows are among the best `k` of their group, and the k-th best value of each (NaN: none is finite)."""
    count = int(group.max()) + 1 if len(group) else 0
    if k == 1 and count:
        best = _maxima(group, values, count)
        near = np.flatnonzero(values == best[group])
        keep = np.zeros(len(group), bool)
        if len(near):
            keep[near] = ties == "all" or _ranked(group[near], values[near], index[near], count, 1, ties)[0]
        return keep, best
    return _ranked(group, values, index, count, k, ties)


def _maxima(group: npt.NDArray[np.int64], values: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    """The greatest value of each group, NaN where there is none; one pass, which spares most rows the sort."""
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    if len(starts) == count:
        best: npt.NDArray[np.float64] = np.fmax.reduceat(values, starts)
    else:
        best = np.full(count, np.nan)
        np.fmax.at(best, group, values)
    return best


def _equal(group: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> int:
    """How many groups have several finite values, all of them the same."""
    finite = np.bincount(group, ~np.isnan(values))
    return int(((finite > 1) & (_maxima(group, values, len(finite)) == -_maxima(group, -values, len(finite)))).sum())


def _ranked(
    group: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    index: npt.NDArray[np.int32],
    count: int,
    k: int,
    ties: Literal["first", "last", "all"],
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    order = np.lexsort((-index if ties == "last" else index, -values, group))  # NaN sorts last
    sizes = np.bincount(group, minlength=count)
    starts = np.cumsum(sizes) - sizes
    rank = np.arange(len(group)) - np.repeat(starts, sizes)
    finite = np.bincount(group, weights=~np.isnan(values), minlength=count).astype(np.int64)
    last = starts + np.minimum(k, finite) - 1
    edge = np.where(finite > 0, values[order][np.maximum(last, 0)] if count else np.empty(0), np.nan)
    ordered = values[order]
    good = ordered >= np.repeat(edge, sizes) if ties == "all" else (rank < k) & ~np.isnan(ordered)
    keep = np.empty(len(group), bool)
    keep[order] = good
    return keep, edge
