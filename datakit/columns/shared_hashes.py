"""How many hashes each of some sets has in common with each of others: all with all, at a few nanoseconds a pair.

Hashes that many of the sets have (those of a template) are columns of a matrix, and its product with that of the others
counts them; of each other hash there is a list of the sets that have it.

    R sets    O other sets    C common hashes
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datakit.columns.ngrams import Ints, Runs
from datakit.columns.row_texts import runs_within

_COMMON = 8
"""A hash is common where one of so many sets has it, or more of them."""
_CELLS = 1 << 22
"""Numbers of a matrix of the others, and counts that are added, at once."""


class SharedHashes:
    """Some sets of distinct, ascending hashes, to hold others against them."""

    def __init__(self, sets: Runs) -> None:
        self._rows = len(sets.sizes)
        self._hashes, which, counts = np.unique(sets.keys, return_inverse=True, return_counts=True)
        common = counts * _COMMON >= self._rows
        self._column = np.where(common, np.cumsum(common) - 1, -1)
        self._common = self._matrix(sets.rows, which, self._rows)
        rare = ~common[which]
        order = np.argsort(which[rare], kind="stable")
        self._listed = sets.rows[rare][order]
        self._ends = np.cumsum(np.where(common, 0, counts))

    def counts(self, others: Runs) -> Ints:
        """How many hashes each set has in common with each of the `others` [R, O]."""
        shared = np.zeros((self._rows, len(others.sizes)), np.int64)
        at = np.minimum(np.searchsorted(self._hashes, others.keys), max(len(self._hashes) - 1, 0))
        there = self._hashes[at] == others.keys if len(self._hashes) else np.zeros(len(others.keys), bool)
        which, rows = at[there], others.rows[there]
        step = max(_CELLS // max(self._common.shape[1], self._rows), 1)
        for low in range(0, len(others.sizes), step):
            first, last = np.searchsorted(rows, (low, low + step))
            some = min(step, len(others.sizes) - low)
            shared[:, low : low + step] = self._counted(rows[first:last] - low, which[first:last], some)
        return shared

    def _counted(self, rows: Ints, which: Ints, some: int) -> Ints:
        """The counts of `some` others [R, some], whose `rows` have the hashes numbered `which`."""
        counted = (self._common @ self._matrix(rows, which, some).T).astype(np.int64)
        rare = self._column[which] < 0
        rows, ends = rows[rare], self._ends[which[rare]]
        sizes = ends - np.where(which[rare] > 0, self._ends[which[rare] - 1], 0)
        for low, high in runs_within(sizes, _CELLS):
            each = sizes[low:high]
            place = np.arange(int(each.sum())) + np.repeat(ends[low:high] - np.cumsum(each), each)
            cell = self._listed[place] * some + np.repeat(rows[low:high], each)
            counted += np.bincount(cell, minlength=counted.size).reshape(counted.shape)
        return counted

    def _matrix(self, rows: Ints, which: Ints, height: int) -> npt.NDArray[np.float32]:
        """Which of `height` rows has which common hash [height, C]: 1 or 0. Sums of these are exact below 2^24."""
        column = self._column[which]
        matrix = np.zeros((height, int(self._column.max(initial=-1)) + 1), np.float32)
        matrix[rows[column >= 0], column[column >= 0]] = 1
        return matrix
