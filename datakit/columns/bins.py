"""Lengths into bins of one capacity, longest first: which rows share a bin. Both ways are within 11/9 of the fewest
bins (Johnson 1973), far nearer on lengths of real texts.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from typing import Literal

import numpy as np

Packing = Literal["first-fit-decreasing", "best-fit-decreasing"]


def first_fit_decreasing(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Rows of each bin: every row, longest first (ties by place), goes to the first bin that has room.

    The bins' room is a tree of maxima, so that a row finds its bin in logarithmic time.
    """
    count = len(lengths)
    leaves = 1 << max(0, count - 1).bit_length()
    room = [capacity] * (2 * leaves)
    bins: list[list[int]] = []
    for row in np.argsort(-lengths, kind="stable").tolist():
        length, node = int(lengths[row]), 1
        while node < leaves:
            node *= 2
            if room[node] < length:
                node += 1
        if node - leaves == len(bins):
            bins.append([])
        bins[node - leaves].append(row)
        room[node] -= length
        while node > 1:
            node //= 2
            room[node] = max(room[2 * node], room[2 * node + 1])
    return bins


def best_fit_decreasing(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Rows of each bin: every row, longest first (ties by place), goes where it leaves the least room, to the first
    such bin. Rooms are sorted, with the bins that have as much, so that a row finds its bin in logarithmic time.
    """
    bins: list[list[int]] = []
    rooms: list[int] = []
    waiting: dict[int, list[int]] = {}
    for row in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[row])
        at = bisect_left(rooms, length)
        if at == len(rooms):
            room, number = capacity, len(bins)
            bins.append([])
        else:
            room = rooms[at]
            number = heappop(waiting[room])
            if not waiting[room]:
                del waiting[rooms.pop(at)]
        bins[number].append(row)
        if left := room - length:
            if left not in waiting:
                insort(rooms, left)
                waiting[left] = []
            heappush(waiting[left], number)
    return bins


PACKINGS: Mapping[Packing, Callable[[np.ndarray, int], list[list[int]]]] = {
    "first-fit-decreasing": first_fit_decreasing,
    "best-fit-decreasing": best_fit_decreasing,
}
"""The ways by name."""
