"""Training rows: an index of lengths, and row groups read when they are needed.

`TokenRows` scans its groups (`row_groups`) once, one by one. It keeps 4 bytes per sequence of every row (the number of
tokens; of a pack also the number inside) and one byte for its source, and refuses, before the first step and all at
once, rows that cannot be trained on: too long, nothing to predict, ids outside the vocabulary, columns of unequal
length. Afterwards a row is a handful of NumPy slices out of a small cache of row groups, so memory does not grow with
the dataset.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from schemas.dataset import Dataset
from schemas.errors import DataError
from schemas.schema import Schema, same_type
from schemas.store.storage import shown
from trainers.algorithm import Algorithm, Per, TokenColumn
from trainers.arithmetic import judged
from trainers.engine.data.columns import Columns, Reads, Row
from trainers.engine.data.index import Index
from trainers.engine.data.row_faults import RowFaults
from trainers.engine.data.row_groups import RowGroups, ShardGroups, TableGroups
from trainers.engine.data.sources import Sources

CACHED_TOKENS = 1 << 25
"""Tokens of sequences that the cache of row groups may hold: twice a window of `feed.WINDOW_TOKENS`."""


@dataclass(frozen=True)
class Group:
    """One row group of one shard: its place, its first row in the dataset and its number of rows."""

    shard: int
    number: int
    first: int
    rows: int


@dataclass(frozen=True)
class Limits:
    """What the network can read and say: tokens of one sequence, ids below `vocab_size`, numbers of a scalar head."""

    max_sequence_length: int
    vocab_size: int
    outputs: int = 1


class TokenRows:
    """Rows at random access, for one algorithm.

    `sources` names where the rows came from (empty: unknown). `labels` are what a step's figures name: of a row its
    key, of a packed one the keys of the rows inside.
    """

    def __init__(self, groups: RowGroups, algorithm: Algorithm, limits: Limits, index: Index | None = None) -> None:
        self.row_groups, self.algorithm, self.limits = groups, algorithm, limits
        schema = groups.schema
        self.packed = algorithm.packed(schema)
        key = (algorithm.rows.key or ("row",))[0]
        name = (schema.key or algorithm.rows.key or schema.names)[0]
        self.reads = Reads(
            columns=self._checked_columns(),
            ids=tuple(sequence.ids for sequence in algorithm.sequences),
            vectors=algorithm.vectors,
            name=name,
            label=f"{key}s" if self.packed and f"{key}s" in schema else name,
            source=_source_column(schema, packed=self.packed),
        )
        self._cache: OrderedDict[int, Columns] = OrderedDict()
        self._cached_tokens = 0
        self._widths: dict[str, tuple[str, int]] = {}
        self._lock = Lock()
        self.index = index if index is not None else self._scanned()
        self.lengths_NS, self.inside_N = self.index.lengths_NS, self.index.inside_N
        self.sources, self._source_U = self.index.sources, self.index.source_U
        counts = self.index.groups_G3[:, 2]
        self.firsts = np.cumsum(counts) - counts
        whole = np.column_stack([self.index.groups_G3[:, :2], self.firsts, counts]).tolist()
        self.groups = [Group(*group) for group in whole]
        self._starts = None if self.inside_N is None else np.cumsum(self.inside_N, dtype=np.int64) - self.inside_N

    def __len__(self) -> int:
        return len(self.lengths_NS)

    def rows(self, numbers: Many[int]) -> list[Row]:
        """The rows of these numbers, in this order."""
        return [columns.row(place) for columns, place in self._located(numbers)]

    def names(self, numbers: Many[int]) -> list[str]:
        """What the rows are called: their keys."""
        return [columns.name(place) for columns, place in self._located(numbers)]

    def counts(self, numbers: np.ndarray) -> np.ndarray:
        """How many sequences each of these rows is: 1, or what a pack holds."""
        return np.ones(len(numbers), np.int64) if self.inside_N is None else self.inside_N[numbers].astype(np.int64)

    def sources_of(self, numbers: np.ndarray) -> np.ndarray:
        """Where each sequence of these rows came from: places in `sources`; empty where that is unknown."""
        if not self.sources:
            return np.empty(0, np.int64)
        places = numbers if self._starts is None else spread(self._starts[numbers], self.counts(numbers))
        return self._source_U[places].astype(np.int64)

    def labels(self, numbers: Many[int]) -> tuple[list[str], list[str | None] | None]:
        """The key of each sequence of these rows, and its source (None: the data have no such column)."""
        names: list[str] = []
        sources: list[str | None] = []
        for columns, row in self._located(numbers):
            inside = self._inside(columns, row)
            names += inside
            if columns.sources is not None:
                source = columns.sources[row].as_py()
                sources += source if isinstance(source, list) else [source] * len(inside)
        return names, None if self.reads.source is None else sources

    @property
    def label(self) -> str:
        """What a label is in a table of its own: the column of the rows' keys."""
        return self.reads.label.removesuffix("s") if self.reads.label != self.reads.name else self.reads.name

    @property
    def content_digest(self) -> str:
        """SHA-256 in hex of everything that would be learnt from these rows, in their order."""
        total = hashlib.sha256()
        for number in range(len(self.groups)):
            total.update(self._cached(number).content_digest())
        return total.hexdigest()

    def _inside(self, columns: Columns, row: int) -> list[str]:
        if columns.labels is not None:
            names: list[str] = columns.labels[row].as_py()
            return names
        name = columns.name(row)
        return [f"{name}/{place}" for place in range(len(columns.row(row)[self._lengths]))] if self.packed else [name]

    @property
    def _lengths(self) -> str:
        """The column of packs that tells how many sequences each holds."""
        return self.algorithm.sequences[0].lengths

    def _checked_columns(self) -> tuple[str, ...]:
        """The columns to read: lists along a sequence, vectors and numbers; text is only for naming rows."""
        algorithm = self.algorithm
        needed = algorithm.reads(self.row_groups.schema)
        self.row_groups.schema.requires(needed, f"trainers.{self.algorithm.name}")
        if self.packed and algorithm.vectors:
            raise DataError(
                "packs",
                f"{algorithm.name} needs a list of numbers of every row and cannot read packs of several sequences",
                where=self.row_groups.where,
                kept=self.row_groups.kept,
                next="train on the rows before they were packed",
            )
        return needed.names

    def _scanned(self) -> Index:
        """The index of all rows; `DataError` for those that cannot be trained on, or when there is none."""
        faults, sources = RowFaults(), Sources()
        groups, lengths, inside = list[tuple[int, int, int]](), list[np.ndarray](), list[np.ndarray]()
        for shard, number, table in self.row_groups.tables(self.reads.all):
            if table.num_rows:
                groups.append((shard, number, table.num_rows))
                lengths.append(self._scan(table, faults, sources, inside))
        faults.throw(self.row_groups, self.algorithm.name)
        if not groups:
            where = self.row_groups.where
            raise DataError(
                "no-rows",
                f"there is nothing to train on: {where} has no rows",
                expected="at least one row",
                where=where,
                kept="every finished stage",
                next=f"quiver show {shown(where)}: the first stage without rows rejected them (`rejected/` in its "
                "folder holds the reasons) or left them to another part (blend.split)",
            )
        counts = np.concatenate(inside) if self.packed else None
        return Index(np.array(groups, dtype=np.int64), np.concatenate(lengths), counts, *sources.close())

    def _located(self, numbers: Many[int]) -> Iterator[tuple[Columns, int]]:
        """The row group of each of these rows, and its place there."""
        groups = np.searchsorted(self.firsts, numbers, side="right") - 1
        places = np.asarray(numbers, dtype=np.int64) - self.firsts[groups]
        with self._lock:
            cached = {group: self._cached(group) for group in np.unique(groups).tolist()}
        return ((cached[group], place) for group, place in zip(groups.tolist(), places.tolist(), strict=True))

    def _cached(self, number: int) -> Columns:
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        group = self.groups[number]
        table = self.row_groups.read(group.shard, group.number, self.reads.all)
        columns = Columns(table, self.reads, self.row_groups.where)
        self._cache[number] = columns
        self._cached_tokens += columns.tokens
        while self._cached_tokens > CACHED_TOKENS and len(self._cache) > 1:
            self._cached_tokens -= self._cache.popitem(last=False)[1].tokens
        return columns

    def _scan(self, table: pa.Table, faults: RowFaults, sources: Sources, inside: list[np.ndarray]) -> np.ndarray:
        """[rows, sequences] numbers of tokens; what is wrong goes into `faults`."""
        columns = Columns(table, self.reads, self.row_groups.where)
        if self.packed:
            inside.append(np.diff(columns.lists[self._lengths][1]).astype(np.int32))
            self._scan_packs(inside[-1], columns, faults)
        if columns.sources is not None:
            of_lists = pa.types.is_list(columns.sources.type)
            flat = columns.sources.flatten() if of_lists else columns.sources
            repeated = self.packed and not of_lists
            sources.add(flat.take(pa.array(np.repeat(np.arange(table.num_rows), inside[-1]))) if repeated else flat)
        for name in self.algorithm.vectors:
            self._scan_vector(name, columns, faults)
        lengths_NS = np.zeros((table.num_rows, len(self.algorithm.sequences)), dtype=np.int32)
        for s, sequence in enumerate(self.algorithm.sequences):
            lengths = lengths_NS[:, s] = np.diff(columns.lists[sequence.ids][1])
            for name in sequence.columns:
                faults.add(
                    f"{name} is not as long as {sequence.ids}", np.diff(columns.lists[name][1]) != lengths, columns
                )
            self._scan_aligned(sequence, columns, faults)
            for name in (sequence.ids, *([sequence.gather_ids] if sequence.gather_ids is not None else [])):
                self._scan_ids(name, columns, faults)
            self._scan_lengths(sequence, lengths, columns, faults)
            if sequence.mask is not None:
                mask, mask_offsets = columns.lists[sequence.mask]
                lengths_inside = columns.lists[sequence.lengths] if self.packed else None
                marked = ~np.isin(mask, (0, 1))
                faults.add(
                    f"{sequence.mask} holds other numbers than 0 and 1", _sum_per_row(marked, mask_offsets) > 0, columns
                )
                counted = _counted(mask != 0, mask_offsets, lengths_inside, self.algorithm.per)
                faults.add(f"{sequence.mask} counts no token that can be predicted", counted == 0, columns)
        return lengths_NS

    def _scan_aligned(self, sequence: TokenColumn, columns: Columns, faults: RowFaults) -> None:
        """Aligned columns hold finite numbers, and those with several per token as many as `gather_ids`, throughout."""
        for name in sequence.aligned:
            values, offsets = columns.lists[name]
            strange = ~np.isfinite(values)
            wrong = _sum_per_row(np.asarray(strange.any(axis=-1)) if strange.ndim > 1 else strange, offsets) > 0
            faults.add(f"{name} holds a number that is not finite", wrong, columns)
        for name in (*([sequence.gather_ids] if sequence.gather_ids is not None else []), *sequence.aligned):
            values = columns.lists[name][0]
            if values.ndim > 1 and len(values):
                first, width = self._widths.setdefault(sequence.ids, (name, values.shape[1]))
                if name == sequence.ranked and width > self.limits.vocab_size:
                    raise DataError(
                        "ragged",
                        f"{name} holds {width} entries per token, more than the vocabulary",
                        expected=f"at most {self.limits.vocab_size}",
                        where=self.row_groups.where,
                        kept="nothing was started",
                    )
                if values.shape[1] != width:
                    raise DataError(
                        "ragged",
                        f"{name} holds {values.shape[1]} entries per token where {first} holds {width}",
                        expected="as many for every token, of both",
                        where=self.row_groups.where,
                        kept="nothing was started",
                    )

    def _scan_ids(self, name: str, columns: Columns, faults: RowFaults) -> None:
        values, offsets = columns.lists[name]
        wrong = (values < 0) | (values >= self.limits.vocab_size)
        at_fault = _sum_per_row(np.asarray(wrong.any(axis=-1)) if wrong.ndim > 1 else wrong, offsets) > 0
        faults.add(f"{name} holds ids outside the vocabulary of {self.limits.vocab_size}", at_fault, columns)

    def _scan_vector(self, name: str, columns: Columns, faults: RowFaults) -> None:
        values, offsets = columns.lists[name]
        wrong = np.diff(offsets) != self.limits.outputs
        faults.add(f"{name} does not hold {self.limits.outputs} numbers, as the head gives", wrong, columns)
        numbers = torch.from_numpy(values.astype(np.float32))
        faults.add(f"{name} holds an infinite number", _sum_per_row(numbers.isinf().numpy(), offsets) > 0, columns)
        none = _sum_per_row(judged(numbers).numpy(), offsets) == 0
        faults.add(f"{name} holds no judgement (null, NaN and -100 are none)", none & ~wrong, columns)

    def _scan_lengths(self, sequence: TokenColumn, lengths: np.ndarray, columns: Columns, faults: RowFaults) -> None:
        ids, reads = sequence.ids, self.limits.max_sequence_length
        most = self.algorithm.longest(reads)
        shift = most - reads
        if not self.packed:
            faults.add(f"{ids} is longer than the {reads} tokens the model can take", lengths > most, columns)
            faults.add(f"{ids} has fewer than {1 + shift} tokens", lengths < 1 + shift, columns)
            return
        name = sequence.lengths
        inner, offsets = columns.lists[name]
        faults.add(f"{name} do not add up to {ids}", _sum_per_row(inner, offsets) != lengths, columns)
        long, short = (_sum_per_row(wrong, offsets) > 0 for wrong in (inner > most, inner < 1 + shift))
        faults.add(f"a sequence is longer than the {reads} tokens the model can take", long, columns)
        faults.add(f"a sequence has fewer than {1 + shift} tokens", short, columns)

    def _scan_packs(self, inside: np.ndarray, columns: Columns, faults: RowFaults) -> None:
        """Everything that packs have once for each of the `inside` sequences is there as often."""
        for labels, name in ((columns.labels, self.reads.label), (columns.sources, self.reads.source)):
            if labels is not None and pa.types.is_list(labels.type):
                faults.add(f"{name} are not as many as {self._lengths}", _list_lengths(labels) != inside, columns)
        others = [sequence.lengths for sequence in self.algorithm.sequences[1:]]
        for name in (*others, *self.algorithm.numbers):
            faults.add(f"{name} are not as many as {self._lengths}", np.diff(columns.lists[name][1]) != inside, columns)


class TokenDataset(TokenRows):
    """The rows of a dataset on disk."""

    def __init__(self, dataset: Dataset, algorithm: Algorithm, limits: Limits, index: Index | None = None) -> None:
        super().__init__(ShardGroups(dataset), algorithm, limits, index)


class TokenTable(TokenRows):
    """The rows of a table in memory; `DataError` for columns that it lacks or holds otherwise, and as for a dataset."""

    def __init__(self, table: pa.Table, algorithm: Algorithm, limits: Limits) -> None:
        super().__init__(TableGroups(table, algorithm), algorithm, limits)


def spread(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`starts[i]`, `starts[i]` + 1, ... (`counts[i]` of them), for every i."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)


def _source_column(schema: Schema, *, packed: bool) -> str | None:
    """The column that says where rows came from: `sources` (one per sequence of a pack), or `source`."""
    types = {"sources": pa.list_(pa.string())} if packed else {}
    for name, kind in (types | {"source": pa.string()}).items():
        if name in schema and same_type(schema[name].type, kind):
            return name
    return None


def _list_lengths(lists: pa.Array) -> np.ndarray:
    lengths: np.ndarray = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    return lengths


def _sum_per_row(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    sums = np.concatenate(([0], np.cumsum(values, dtype=np.int64)))
    return np.asarray(sums[offsets[1:]] - sums[offsets[:-1]])


def _counted(
    mask: np.ndarray, offsets: np.ndarray, inside: tuple[np.ndarray, np.ndarray] | None, per: Per
) -> np.ndarray:
    """Counted tokens per row without the first of every sequence, which nothing predicts; of packs, whose lengths are
    `inside`, those of the sequence with the fewest where each counts by itself.
    """
    starts = offsets[:-1][np.diff(offsets) > 0]
    ends = np.empty(0, np.int64)
    if inside is not None:
        ends = np.cumsum(inside[0][inside[1][0] : inside[1][-1]])
        starts = offsets[0] + np.concatenate(([0], ends[:-1]))
    predicted = mask.copy()
    predicted[starts[starts < len(mask)]] = False
    whole = _sum_per_row(predicted, offsets)
    if inside is None or per is Per.TOKEN or not len(ends) or offsets[0] + ends[-1] != offsets[-1]:
        return whole
    each = _sum_per_row(predicted, offsets[0] + np.concatenate(([0], ends)))
    firsts = (inside[1] - inside[1][0])[:-1]
    filled = np.diff(inside[1]) > 0
    whole[filled] = np.minimum.reduceat(each, firsts[filled])
    return whole
