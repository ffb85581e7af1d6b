"""Which rows of a dataset are shown: the first, those for which a predicate holds, or a seeded sample of either.

One scan of the columns that the predicate reads, in the bounded child in which `filter.where` runs; the rows themselves
are read afterwards, from the shards that hold some of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.duck.predicate import Predicate
from schemas import Dataset

_AT_ONCE = 4096
"""Rows that are looked at in one piece."""


@dataclass(frozen=True)
class Choice:
    """`rows` of those for which `predicate` holds (empty: of all): the first, or with a `seed` a sample of them."""

    rows: int
    predicate: str = ""
    seed: int | None = None


@dataclass(frozen=True)
class ChosenRows:
    """Rows with their numbers in the dataset, in its order; `matching`: how many there are to choose from."""

    numbers: tuple[int, ...]
    rows: pa.Table
    matching: int


def chosen_rows(dataset: Dataset, choice: Choice) -> ChosenRows:
    """The rows that `choice` names. A sample is the same whatever the shards and pieces in which rows are read.

    `ConfigError` for a predicate that is none over these rows.
    """
    random = None if choice.seed is None else np.random.Generator(np.random.PCG64(choice.seed))
    numbers, keys, matching = np.empty(0, np.int64), np.empty(0), 0
    for piece in _matching(dataset, choice.predicate):
        matching += len(piece)
        drawn = np.arange(matching - len(piece), matching, dtype=float) if random is None else random.random(len(piece))
        numbers, keys = np.concatenate([numbers, piece]), np.concatenate([keys, drawn])
        least = np.argsort(keys, kind="stable")[: choice.rows]
        numbers, keys = numbers[least], keys[least]
    numbers = np.sort(numbers)
    return ChosenRows(tuple(numbers.tolist()), _read(dataset, numbers), matching)


def _matching(dataset: Dataset, text: str) -> Iterator[np.ndarray]:
    """Numbers of the rows for which the predicate holds, in order."""
    if not text:
        for start in range(0, dataset.num_rows, _AT_ONCE):
            yield np.arange(start, min(start + _AT_ONCE, dataset.num_rows))
        return
    predicate = Predicate.of(text, dataset.schema)
    columns, start = predicate.columns or dataset.schema.names[:1], 0
    for index in range(len(dataset.shards)):
        for piece in dataset.batches(index, _AT_ONCE, columns):
            holds = pc.fill_null(predicate.values(piece), False)
            yield start + np.flatnonzero(holds.to_numpy(zero_copy_only=False))
            start += piece.num_rows


def _read(dataset: Dataset, numbers: np.ndarray) -> pa.Table:
    """The rows with these numbers, which are sorted."""
    taken, start = [dataset.schema.empty()], 0
    for index, shard in enumerate(dataset.shards):
        if np.any((numbers >= start) & (numbers < start + shard.rows)):
            at = start
            for piece in dataset.batches(index, _AT_ONCE):
                inside = numbers[(numbers >= at) & (numbers < at + piece.num_rows)] - at
                taken.append(piece.take(pa.array(inside)))
                at += piece.num_rows
        start += shard.rows
    return pa.concat_tables(taken)
