"""Sets of hashes of many rows in a file, and the Jaccard similarity of any two of them: what is said of pairs of rows
once they are known to be worth a look, in bounded memory.

    P pairs of rows    R rows    O others
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from datakit.columns.ngrams import Ints, Runs
from datakit.columns.row_texts import runs_within
from datakit.columns.seeded import Keys
from datakit.columns.shared_hashes import SharedHashes
from schemas.store.scratch import Scratch
from schemas.store.storage import guarded

_TOGETHER = 1 << 21
"""Hashes that are compared at once."""
_FACING = 1 << 20
"""Hashes of rows that others are held against at once."""


class KeptSets:
    """The sets of rows, numbered as they are added; use it as a context manager. Files go with it."""

    def __enter__(self) -> KeptSets:
        self._folder = Scratch("quiver-sets-")
        self._size = 0
        self._files = [self._open("keys"), self._open("ends")]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()
        self._folder.close()

    def add(self, sets: Runs) -> None:
        """The distinct, ascending hashes of the next rows."""
        with guarded("write", self._folder.path):
            self._files[0].write(sets.keys.tobytes())
            self._files[1].write((sets.starts[1:] + self._size).tobytes())
        self._size += len(sets.keys)

    def similarities(self, one: Ints, other: Ints) -> npt.NDArray[np.float64]:
        """The Jaccard similarity of the rows of each pair [P]; 0 where neither has a hash."""
        self._flush()
        keys: Keys = self._read("keys", np.uint64)
        spans = [self._spans(rows) for rows in (one, other)]
        sizes = [stop - start for start, stop in spans]
        both = np.zeros(len(one), np.int64)
        for low, high in runs_within(sizes[0] + sizes[1], _TOGETHER):
            a, b = (_of_pairs(keys, start[low:high], stop[low:high]) for start, stop in spans)
            shared = np.isin(a, b, assume_unique=True)
            both[low:high] = np.bincount(
                np.repeat(np.arange(high - low), sizes[0][low:high])[shared], minlength=high - low
            )
        return both / np.maximum(sizes[0] + sizes[1] - both, 1)

    def facing(self, rows: Ints) -> Facing:
        """These `rows` [R], for all of them to be compared with all of others."""
        self._flush()
        return Facing(self.sizes(rows), [SharedHashes(sets) for sets in self.runs(rows)], self)

    def sizes(self, rows: Ints) -> Ints:
        """How many hashes each of `rows` has."""
        start, stop = self._spans(rows)
        return stop - start

    def runs(self, rows: Ints) -> Iterator[Runs]:
        """The sets of `rows`, as many at a time as are compared at once."""
        for low, high in runs_within(self.sizes(rows), _FACING):
            yield self._of(rows[low:high])

    def _of(self, rows: Ints) -> Runs:
        """The sets of `rows`, one behind the other."""
        keys: Keys = self._read("keys", np.uint64)
        start, stop = self._spans(rows)
        return Runs(keys[_places(start, stop)], np.concatenate([[0], np.cumsum(stop - start)]))

    def _spans(self, rows: Ints) -> tuple[Ints, Ints]:
        """Where the sets of `rows` begin and end among all hashes."""
        ends: Ints = self._read("ends", np.int64)
        return np.where(rows > 0, ends[rows - 1], 0), ends[rows]

    def _flush(self) -> None:
        with guarded("write", self._folder.path):
            for file in self._files:
                file.flush()

    def _open(self, name: str) -> BinaryIO:
        return open(os.path.join(self._folder.path, name), "wb")

    def _read(self, name: str, kind: type[np.generic]) -> npt.NDArray[Any]:
        path = os.path.join(self._folder.path, name)
        return np.memmap(path, kind, "r") if os.path.getsize(path) else np.empty(0, kind)


@dataclass(frozen=True)
class Facing:
    """Some rows that others are held against: `sizes` of their sets [R], what each run of them
    has in common with others (`shared`), and all sets that there are (`kept`).
    """

    sizes: Ints
    shared: Sequence[SharedHashes]
    kept: KeptSets

    def similarities(self, others: Ints) -> npt.NDArray[np.float64]:
        """The Jaccard similarity of each row with each of the `others` [R, O]; 0 where neither has a hash."""
        tiles = [np.concatenate([one.counts(sets) for one in self.shared]) for sets in self.kept.runs(others)]
        shared = np.concatenate(tiles, axis=1)
        return shared / np.maximum(self.sizes[:, None] + self.kept.sizes(others) - shared, 1)


def _of_pairs(keys: Keys, start: Ints, stop: Ints) -> Keys:
    """The hashes of the sets that lie there, ascending: the number of the pair, and behind it as much of the hash as
    has room (43 bits or more).
    """
    pair = np.repeat(np.arange(len(start), dtype=np.uint64), stop - start)
    bits = len(start).bit_length()
    return (pair << np.uint64(64 - bits)) | (keys[_places(start, stop)] >> np.uint64(bits))


def _places(start: Ints, stop: Ints) -> Ints:
    """The places from each `start` to its `stop`, one span behind the other."""
    sizes = stop - start
    return np.arange(int(sizes.sum())) + np.repeat(stop - np.cumsum(sizes), sizes)
