"""Sources of a mixture: whole passes over a dataset, a seeded part of one more, and how they interleave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.measurement import numbers
from datakit.columns.seeded import row_keys, smallest
from schemas import Column, Schema, common
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError
from schemas.manifest import Manifest

_BATCH_ROWS = 65536
_BLOCK_ROWS = 65536


def lengths_of(dataset: Dataset, column: str) -> npt.NDArray[np.int64]:
    """Tokens of every row: the number in `column` or the size of its list; 1 each if `column` is empty."""
    if not column:
        return np.ones(dataset.num_rows, np.int64)
    lengths = [np.empty(0, np.int64)]
    for shard in range(len(dataset.shards)):
        values = dataset.read_shard(shard, columns=[column])[column]
        nested = pa.types.is_list(values.type) or pa.types.is_large_list(values.type)
        sizes = numbers(pc.list_value_length(values) if nested else values)
        if np.isnan(sizes).any() or (sizes < 0).any():
            raise DataError(
                "bad-length",
                f"{column} is null, negative or not finite",
                where=f"{dataset.url}, shard {shard}",
            )
        lengths.append(sizes.astype(np.int64))
    return np.concatenate(lengths)


class Source:
    """`quota` units out of `dataset`, a row being worth its entry in `lengths`; `take` hands its rows out, with those
    of the `columns` that it has.
    """

    def __init__(
        self,
        name: str,
        dataset: Dataset,
        *,
        lengths: npt.NDArray[np.int64],
        quota: int,
        columns: Sequence[str],
        seed: int,
    ) -> None:
        self._name, self._dataset, self._columns = name, dataset, [one for one in columns if one in dataset.schema]
        self._passes, left = divmod(quota, int(lengths.sum()))
        self._part = _part(lengths, left, row_keys(0, len(lengths), seed, "blend.mix", name))
        self.rows = self._passes * len(lengths) + int(self._part.sum())
        units = self._passes * int(lengths.sum()) + int(lengths[self._part].sum())
        self.counts: Mapping[str, float] = {
            f"rows.{name}": self.rows,
            f"epochs.{name}": units / int(lengths.sum()),
            f"units.{name}": units,
        }
        self._stream = self._read()
        self._waiting: pa.Table | None = None

    def take(self, count: int) -> pa.Table:
        """The next `count` rows, with their `source` and `epoch`."""
        parts = [] if self._waiting is None else [self._waiting]
        have = sum(part.num_rows for part in parts)
        while have < count or not parts:
            parts.append(next(self._stream))
            have += parts[-1].num_rows
        rows = pa.concat_tables(parts)
        self._waiting = rows.slice(count)
        return rows.slice(0, count)

    def _read(self) -> Iterator[pa.Table]:
        yield self._marked(self._dataset.schema.selecting(*self._columns).empty(), 0)
        for epoch in range(self._passes + bool(self._part.any())):
            start = 0
            for shard in range(len(self._dataset.shards)):
                for rows in self._dataset.batches(shard, _BATCH_ROWS, columns=self._columns):
                    chosen = self._part[start : start + rows.num_rows]
                    start += rows.num_rows
                    yield self._marked(rows if epoch < self._passes else rows.filter(pa.array(chosen)), epoch)

    def _marked(self, rows: pa.Table, epoch: int) -> pa.Table:
        marks = {
            "source": pa.repeat(self._name, rows.num_rows),
            "epoch": pa.repeat(pa.scalar(epoch, pa.int32()), rows.num_rows),
        }
        columns = {name: rows[name] for name in self._columns}
        return pa.table({**columns, **marks})


def _part(lengths: npt.NDArray[np.int64], quota: int, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """The shortest run of rows, by ascending key, that is worth at least `quota`."""
    if quota == 0:
        return np.zeros(len(lengths), bool)
    if (lengths == 1).all():
        return smallest(keys, quota)
    order = np.argsort(keys, kind="stable")
    worth = np.cumsum(lengths[order])
    chosen = np.zeros(len(lengths), bool)
    chosen[order[: int(np.searchsorted(worth, quota)) + 1]] = True
    return chosen


def concatenated(sources: Sequence[Source]) -> Iterator[pa.Table]:
    """All rows of the first source, then all of the second, ..."""
    for source in sources:
        for start in range(0, source.rows, _BLOCK_ROWS):
            yield source.take(min(_BLOCK_ROWS, source.rows - start))


def interleaved(sources: Sequence[Source]) -> Iterator[pa.Table]:
    """Row j of m by its place (j + 1/2) / m, equal places in the order of the sources; a block at a time."""
    blocks = -(-sum(source.rows for source in sources) // _BLOCK_ROWS)
    for block in range(blocks):
        spans = [(_first(s.rows, block, blocks), _first(s.rows, block + 1, blocks)) for s in sources]
        parts = [source.take(end - start) for source, (start, end) in zip(sources, spans, strict=True)]
        places = [(np.arange(*span) + 0.5) / s.rows for s, span in zip(sources, spans, strict=True) if s.rows]
        order = np.argsort(np.concatenate(places), kind="stable")
        yield pa.concat_tables(parts, promote_options="default").take(pa.array(order))


def _first(rows: int, block: int, blocks: int) -> int:
    """The first of `rows` whose place is in `block`: the least j with j + 1/2 >= rows * block / blocks."""
    return max(0, -((blocks - 2 * rows * block) // (2 * blocks)))


def mixed_columns(inputs: Mapping[str, Schema], names: Iterable[str]) -> list[Column]:
    """Of `names` the columns that any source has, null where another lacks one; `ConfigError` for one of two types."""
    columns = []
    for name in names:
        having = {source: schema for source, schema in inputs.items() if name in schema}
        if not having:
            continue
        alike = common(having.values())
        if name not in alike:
            kinds = ", ".join(f"{source}: {schema[name].type}" for source, schema in having.items())
            raise ConfigError("schema", f"blend.mix cannot mix {name}, which is {kinds}", kept="nothing was started")
        columns.append(replace(alike[name], nullable=alike[name].nullable or len(having) < len(inputs)))
    return columns


def partial_use(made: Manifest, name: str) -> tuple[int, int]:
    """Units that a finished mixture has of the source `name`, and those the source has, where it gave less than one
    pass; otherwise (0, 0).
    """
    counts = made.stats.get("counts", {})
    units, share = counts.get(f"units.{name}", 0), counts.get(f"epochs.{name}", 0)
    return (round(units), round(units / share)) if 0 < share < 1 else (0, 0)
