"""Intervals of sorted 64-bit keys, each known by its end: by shares of the range, or by how many keys each holds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from datakit.columns.apportion import exact_shares
from datakit.columns.seeded import Keys

_WHOLE = 1 << 64


def by_share(shares: Sequence[float]) -> list[int]:
    """The ends of intervals that are these shares of 0 .. 2^64."""
    *inner, _ = accumulate(exact_shares(shares))
    return [*(int(total * _WHOLE) for total in inner), _WHOLE]


def by_size(distinct: Keys, sizes: npt.NDArray[np.int64]) -> list[int]:
    """The ends of intervals that hold so many of the sorted keys each."""
    return [int(distinct[end]) if end < len(distinct) else _WHOLE for end in np.cumsum(sizes)]


def sizes(distinct: Keys, ends: Sequence[int]) -> npt.NDArray[np.int64]:
    """How many of the sorted keys lie in each interval."""
    inner = np.searchsorted(distinct, np.array(ends[:-1], np.uint64))
    return np.diff(np.concatenate([[0], inner, [len(distinct)]]))


def raised(sizes: npt.NDArray[np.int64], least: int) -> npt.NDArray[np.int64]:
    """`sizes` with `least` in each at least, taken from the largest; their sum has to suffice."""
    sizes = sizes.copy()
    while sizes.min() < least:
        sizes[sizes.argmax()] -= 1
        sizes[sizes.argmin()] += 1
    return sizes


def between(keys: Keys, low: int, high: int) -> npt.NDArray[np.bool_]:
    """Which keys lie in `low` .. `high`; none where that is empty."""
    if low > high:
        return np.zeros(len(keys), bool)
    return (keys >= np.uint64(low)) & (keys <= np.uint64(high))
