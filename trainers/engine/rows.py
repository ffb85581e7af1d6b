"""Training rows straight from Parquet shards: an index of lengths, and row groups read when they are needed.

`Source` scans the dataset once, row group by row group. It keeps 4 bytes per sequence of every row (the number of
tokens) and refuses, before the first step and all at once, rows that cannot be trained on: too long, nothing to
predict, ids outside the vocabulary, columns of unequal length. Afterwards a row is a handful of NumPy slices out of a
small cache of row groups, so memory does not grow with the dataset.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Many
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import Lock
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.dataset import Dataset
from schemas.errors import DataError, printable
from schemas.shards import open_shard
from trainers.algorithm import Algorithm, Needs, Per

CACHED_TOKENS = 1 << 25
"""Tokens that the cache of row groups may hold: twice a window of `feed.WINDOW_TOKENS`."""

Row: TypeAlias = Mapping[str, np.ndarray]
"""List columns as arrays (one entry per token; `choices` [tokens, K]), number columns as arrays of shape []."""


@dataclass(frozen=True)
class Group:
    """One row group of one shard: its place, its first row in the dataset and its number of rows."""

    shard: int
    number: int
    first: int
    rows: int


@dataclass(frozen=True)
class Limits:
    """What the network can read: tokens of one sequence, and ids below `vocab_size`."""

    max_sequence_length: int
    vocab_size: int


class Source:
    """The rows of a dataset, at random access, for one algorithm."""

    def __init__(self, dataset: Dataset, algorithm: Algorithm, limits: Limits) -> None:
        self.dataset, self.algorithm, self.limits = dataset, algorithm, limits
        self.packed = "lengths" in dataset.schema and "lengths" not in algorithm.rows
        self.name_column = (dataset.schema.key or algorithm.rows.key or dataset.schema.names)[0]
        self.columns = self._checked_columns()
        self.groups: list[Group] = []
        self._cache: OrderedDict[int, _Columns] = OrderedDict()
        self._cached_tokens = 0
        self._lock = Lock()
        faults = _Faults()
        lengths = [self._scan(table, group, faults) for group, table in self._all_groups()]
        faults.throw(dataset.url, algorithm.name)
        if not lengths or not sum(map(len, lengths)):
            raise DataError("no-rows", f"there is nothing to train on: {dataset.url} has no rows", where=dataset.url)
        self.lengths_NS: np.ndarray = np.concatenate(lengths)
        self.firsts = np.array([group.first for group in self.groups])

    def __len__(self) -> int:
        return len(self.lengths_NS)

    def rows(self, numbers: Many[int]) -> list[Row]:
        """The rows of these numbers, in this order."""
        places = np.searchsorted(self.firsts, numbers, side="right") - 1
        return [self._group(int(g)).row(int(n) - self.groups[g].first) for n, g in zip(numbers, places, strict=True)]

    def names(self, numbers: Many[int]) -> list[str]:
        """What the rows are called: their keys."""
        places = np.searchsorted(self.firsts, numbers, side="right") - 1
        return [self._group(int(g)).names[int(n) - self.groups[g].first] for n, g in zip(numbers, places, strict=True)]

    def _checked_columns(self) -> tuple[str, ...]:
        """The columns to read: every list along a sequence, and every number; text is only for naming rows."""
        needed = self.algorithm.rows.selecting(*self.algorithm.lists, *self.algorithm.numbers)
        self.dataset.schema.requires(needed, f"trainers.{self.algorithm.name}")
        if self.packed and self.algorithm.per is not Per.TOKEN:
            raise DataError(
                "packs",
                f"{self.algorithm.name} counts rows and cannot read packs of several sequences",
                where=self.dataset.url,
                kept="nothing was started",
                next="train on the rows before they were packed",
            )
        return (*needed.names, "lengths") if self.packed else needed.names

    def _all_groups(self) -> Iterator[tuple[Group, pa.Table]]:
        first = 0
        for shard in range(len(self.dataset.shards)):
            with self._open(shard) as file:
                for number in range(file.num_row_groups):
                    table = file.read_row_group(number, columns=self._reads())
                    if table.num_rows:
                        group = Group(shard, number, first, table.num_rows)
                        self.groups.append(group)
                        yield group, table
                        first += table.num_rows

    def _open(self, shard: int) -> AbstractContextManager[pq.ParquetFile]:
        return open_shard(self.dataset.url, self.dataset.shards[shard], self.dataset.schema, self.dataset.verify)

    def _reads(self) -> list[str]:
        return list(dict.fromkeys((*self.columns, self.name_column)))

    def _group(self, number: int) -> _Columns:
        with self._lock:
            return self._cached(number)

    def _cached(self, number: int) -> _Columns:
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        group = self.groups[number]
        with self._open(group.shard) as file:
            columns = _Columns(file.read_row_group(group.number, columns=self._reads()), self)
        self._cache[number] = columns
        self._cached_tokens += columns.tokens
        while self._cached_tokens > CACHED_TOKENS and len(self._cache) > 1:
            self._cached_tokens -= self._cache.popitem(last=False)[1].tokens
        return columns

    def _scan(self, table: pa.Table, group: Group, faults: _Faults) -> np.ndarray:
        """[rows, sequences] numbers of tokens; what is wrong goes into `faults`."""
        columns = _Columns(table, self)
        lengths_NS = np.zeros((table.num_rows, len(self.algorithm.sequences)), dtype=np.int32)
        for s, sequence in enumerate(self.algorithm.sequences):
            ids, offsets = columns.lists[sequence.ids]
            lengths = lengths_NS[:, s] = np.diff(offsets)
            for name in sequence.columns:
                faults.add(
                    f"{name} is not as long as {sequence.ids}", np.diff(columns.lists[name][1]) != lengths, columns
                )
            outside = _sum_per_row((ids < 0) | (ids >= self.limits.vocab_size), offsets) > 0
            faults.add(f"{sequence.ids} holds ids outside the vocabulary of {self.limits.vocab_size}", outside, columns)
            self._scan_lengths(sequence.ids, lengths, columns, faults)
            if sequence.mask is not None:
                mask, mask_offsets = columns.lists[sequence.mask]
                counted = _counted(mask != 0, mask_offsets, columns, self.packed)
                faults.add(f"{sequence.mask} counts no token that can be predicted", counted == 0, columns)
        return lengths_NS

    def _scan_lengths(self, ids: str, lengths: np.ndarray, columns: _Columns, faults: _Faults) -> None:
        shift = 0 if Needs.SCORES in self.algorithm.needs else 1
        most = self.limits.max_sequence_length + shift
        if not self.packed:
            faults.add(f"{ids} is longer than the {most} tokens the model can take", lengths > most, columns)
            faults.add(f"{ids} has fewer than {1 + shift} tokens", lengths < 1 + shift, columns)
            return
        inner, offsets = columns.lists["lengths"]
        faults.add("lengths do not add up to input_ids", _sum_per_row(inner, offsets) != lengths, columns)
        long, short = (_sum_per_row(wrong, offsets) > 0 for wrong in (inner > most, inner < 1 + shift))
        faults.add(f"a sequence is longer than the {most} tokens the model can take", long, columns)
        faults.add(f"a sequence has fewer than {1 + shift} tokens", short, columns)


class _Columns:
    """A row group as NumPy arrays: list columns as (values, offsets), number columns, and the names of the rows."""

    def __init__(self, table: pa.Table, source: Source) -> None:
        table = table.combine_chunks()
        self.where = source.dataset.url
        self.lists: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.numbers: dict[str, np.ndarray] = {}
        for name in source.columns:
            column = table[name].combine_chunks()
            if column.null_count:
                raise DataError("null", f"{name} is null in {column.null_count} rows", where=self.where)
            if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
                self.lists[name] = _list(column, name, self.where)
            else:
                self.numbers[name] = column.to_numpy(zero_copy_only=False)
        names = table[source.name_column]
        self.names: list[str] = [str(name) for name in names.to_pylist()]
        self.tokens = sum(values.size for values, _ in self.lists.values())

    def row(self, number: int) -> Row:
        lists = {name: values[offsets[number] : offsets[number + 1]] for name, (values, offsets) in self.lists.items()}
        return {**lists, **{name: values[number] for name, values in self.numbers.items()}}


class _Faults:
    """Rows that cannot be trained on, by reason: how many, and the first few by name."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, list[str]]] = {}

    def add(self, reason: str, wrong: np.ndarray, columns: _Columns) -> None:
        """Count the rows where `wrong` is true."""
        rows = np.flatnonzero(wrong)
        if len(rows):
            count, names = self.found.get(reason, (0, []))
            more = [columns.names[row] for row in rows[: 3 - len(names)]] if len(names) < 3 else []
            self.found[reason] = (count + len(rows), names + more)

    def throw(self, where: str, who: str) -> None:
        """Raise `DataError` if anything was added."""
        if self.found:
            texts = [
                f"{reason}: {count} rows, first {', '.join(map(printable, names))}"
                for reason, (count, names) in self.found.items()
            ]
            raise DataError(
                "untrainable-rows",
                f"{who} cannot train on every row; " + "; ".join(texts),
                where=where,
                kept="nothing was started",
                next="filter these rows out (rejected rows keep their reason) and train on what is left",
            )


def _list(column: pa.Array, name: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Values and offsets of a list column; a list of lists of one inner length K gives values [tokens, K]."""
    offsets, values = column.offsets.to_numpy(), column.values
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        inner = values.offsets.to_numpy()
        widths = np.unique(np.diff(inner[offsets[0] : offsets[-1] + 1]))
        if len(widths) > 1:
            raise DataError("ragged", f"{name} holds {widths.min()} to {widths.max()} entries per token", where=where)
        start, stop = inner[offsets[0]], inner[offsets[-1]]
        flat = values.values.slice(start, stop - start).to_numpy(zero_copy_only=False)
        return flat.reshape(-1, int(widths[0]) if len(widths) else 1), offsets - offsets[0]
    if values.null_count:
        raise DataError("null", f"{name} holds nulls among its entries", where=where)
    return values.to_numpy(zero_copy_only=False), offsets


def _sum_per_row(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    sums = np.concatenate(([0], np.cumsum(values, dtype=np.int64)))
    return np.asarray(sums[offsets[1:]] - sums[offsets[:-1]])


def _counted(mask: np.ndarray, offsets: np.ndarray, columns: _Columns, packed: bool) -> np.ndarray:
    """Counted tokens per row without the first of every sequence, which nothing predicts."""
    starts = offsets[:-1][np.diff(offsets) > 0]
    if packed:
        inner, inner_offsets = columns.lists["lengths"]
        ends = np.cumsum(inner[inner_offsets[0] : inner_offsets[-1]])
        starts = offsets[0] + np.concatenate(([0], ends[:-1]))
    predicted = mask.copy()
    predicted[starts[starts < len(mask)]] = False
    return _sum_per_row(predicted, offsets)
