"""Sets of hashes of many rows in a file, and the Jaccard similarity of any two of them: what is said of pairs of rows
once they are known to be worth a look, in bounded memory.

    P pairs of rows
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from datakit.columns.ngrams import Ints, Runs
from datakit.columns.row_texts import runs_within
from datakit.columns.seeded import Keys, mixed
from schemas.store.scratch import Scratch
from schemas.store.storage import guarded

_TOGETHER = 1 << 21
"""Hashes that are compared at once."""


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
        with guarded("write", self._folder.path):
            for file in self._files:
                file.flush()
        keys: Keys = self._read("keys", np.uint64)
        ends: Ints = self._read("ends", np.int64)
        spans = [(np.where(rows > 0, ends[rows - 1], 0), ends[rows]) for rows in (one, other)]
        sizes = [stop - start for start, stop in spans]
        both = np.zeros(len(one), np.int64)
        for low, high in runs_within(sizes[0] + sizes[1], _TOGETHER):
            a, b = (_of_pairs(keys, start[low:high], stop[low:high]) for start, stop in spans)
            shared = np.isin(a, b, assume_unique=True)
            both[low:high] = np.bincount(
                np.repeat(np.arange(high - low), sizes[0][low:high])[shared], minlength=high - low
            )
        return both / np.maximum(sizes[0] + sizes[1] - both, 1)

    def _open(self, name: str) -> BinaryIO:
        return open(os.path.join(self._folder.path, name), "wb")

    def _read(self, name: str, kind: type[np.generic]) -> npt.NDArray[Any]:
        path = os.path.join(self._folder.path, name)
        return np.memmap(path, kind, "r") if os.path.getsize(path) else np.empty(0, kind)


def _of_pairs(keys: Keys, start: Ints, stop: Ints) -> Keys:
    """The hashes of the sets that lie there, each mixed with the number of its pair."""
    sizes = stop - start
    pair = np.repeat(np.arange(len(start)), sizes)
    at = np.arange(int(sizes.sum())) - (np.cumsum(sizes) - sizes)[pair] + start[pair]
    return mixed(keys[at] + mixed(pair.astype(np.uint64)))
