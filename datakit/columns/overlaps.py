"""Which n-grams of some texts stand in others: the texts of evaluation sets are held in memory, rows go by in batches.

A text of fewer words than `n`, but of `shortest` or more, is sought as one run of all its words.

    E texts of evaluation sets    R rows    P pairs of a row and a text that have an n-gram in common
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datakit.columns.ngrams import Ints, Runs, ngrams
from datakit.columns.row_texts import runs_within

_TOGETHER = 1 << 22
"""Meetings of an n-gram of a row with one of a text that are counted at once."""


@dataclass(frozen=True)
class Overlaps:
    """Pairs that have an n-gram in common, ascending: `row` and `text` [P], and the `share` of the text's n-grams."""

    row: Ints
    text: Ints
    share: npt.NDArray[np.float64]


class SoughtTexts:
    """The n-grams of texts, to be sought in rows; each needs some 20 bytes of memory."""

    def __init__(self, texts: Sequence[Runs], n: int, shortest: int) -> None:
        keys, owners, sizes = [np.empty(0, np.uint64)], [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        for words in texts:
            sets = ngrams(words, n, short=True).distinct()
            sought = (words.sizes >= shortest)[sets.rows]
            keys.append(sets.keys[sought])
            owners.append((sets.rows[sought] + sum(map(len, sizes))).astype(np.int32))
            sizes.append(words.sizes)
        words_of, every = np.concatenate(sizes), np.concatenate(keys)
        self.short = words_of < shortest
        """Which texts have too few words to be sought [E]."""
        self._lengths = np.unique(np.minimum(words_of[~self.short], n)).tolist()
        order = np.argsort(every, kind="stable")
        self._owners = np.concatenate(owners)[order]
        self._keys, begins = np.unique(every[order], return_index=True)
        self._begins, self._counts = begins, np.diff(np.append(begins, len(every)))
        self._sizes = np.bincount(self._owners, minlength=len(words_of))

    def overlaps(self, words: Runs) -> Iterator[Overlaps]:
        """For all rows of `words`, a run of rows at a time, the texts with which they overlap."""
        met = [self._met(ngrams(words, length).distinct()) for length in self._lengths]
        row = np.concatenate([np.empty(0, np.int64), *(one for one, _ in met)])
        place = np.concatenate([np.empty(0, np.int64), *(one for _, one in met)])
        meetings = np.bincount(row, self._counts[place], len(words.sizes)).astype(np.int64)
        for start, stop in runs_within(meetings, _TOGETHER):
            here = (row >= start) & (row < stop)
            yield self._counted(row[here], place[here])

    def _met(self, sets: Runs) -> tuple[Ints, Ints]:
        """The rows of the n-grams that are sought, and their places among these."""
        place = np.searchsorted(self._keys, sets.keys)
        met = self._keys[np.minimum(place, len(self._keys) - 1)] == sets.keys
        return sets.rows[met], place[met]

    def _counted(self, row: Ints, place: Ints) -> Overlaps:
        counts = self._counts[place]
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        text = self._owners[np.repeat(self._begins[place], counts) + within].astype(np.int64)
        pairs, common = np.unique(np.repeat(row, counts) * len(self._sizes) + text, return_counts=True)
        rows, texts = np.divmod(pairs, max(len(self._sizes), 1))
        return Overlaps(rows, texts, common / self._sizes[texts])
