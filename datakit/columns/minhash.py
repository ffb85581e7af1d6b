"""MinHash and its bands: rows whose sets of n-grams are alike share a bucket (Broder 1997; Leskovec, Rajaraman and
Ullman, Mining of Massive Datasets, chapter 3).

Under each of the permutations two sets have the same minimum with the probability of their Jaccard similarity s. Rows
that agree in all `width` minima of one of `count` bands meet: with probability 1 - (1 - s^width)^count. The bands are
the widest that keep this at `RECALL` or above for two sets just as alike as asked, of at most `PERMUTATIONS`. Wider
bands are fewer meetings of rows that are not alike.

    T n-grams of all rows    R rows    K permutations    B bands
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datakit.columns.ngrams import Runs
from datakit.columns.seeded import Keys, mixed, row_keys

PERMUTATIONS = 128
RECALL = 0.98
"""The least probability that two rows just as alike as asked meet in a bucket."""


def bands(similarity: float) -> tuple[int, int]:
    """How many bands (`count`) of how many permutations each (`width`) find pairs of that `similarity` or above."""
    for width in range(PERMUTATIONS, 1, -1):
        count = PERMUTATIONS // width
        if meeting(similarity, count, width) >= RECALL:
            return count, width
    return PERMUTATIONS, 1


def meeting(similarity: float, count: int, width: int) -> float:
    """The probability that two rows of that Jaccard similarity share a bucket."""
    return float(1 - (1 - similarity**width) ** count)


def buckets(sets: Runs, count: int, width: int) -> Keys:
    """The bucket of every row in each band [R, B]; rows without an n-gram have none that means anything."""
    minima = _minima(sets, count * width)
    keys = np.tile(row_keys(0, count, "bands"), (len(minima), 1))
    for step in range(width):
        keys = mixed(keys + minima[:, step::width])
    return keys


def _minima(sets: Runs, permutations: int) -> npt.NDArray[np.uint64]:
    """The least image of each row's n-grams under each permutation [R, K].

    Permutations are a x + b modulo 2^32 with odd a, over n-grams whose hashes are well mixed already.
    """
    some = sets.sizes > 0
    begins = sets.starts[:-1][some]
    low = (sets.keys >> np.uint64(32)).astype(np.uint32)
    drawn = row_keys(0, 2 * permutations, "permutations").astype(np.uint32)
    factors, shifts = drawn[:permutations] | np.uint32(1), drawn[permutations:]
    minima = np.zeros((len(some), permutations), np.uint64)
    for number in range(permutations if len(begins) else 0):
        minima[some, number] = np.minimum.reduceat(low * factors[number] + shifts[number], begins)
    return minima
