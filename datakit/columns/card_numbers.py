"""Card numbers in runs of digits: as they are printed on cards, with other numbers before or behind them.

A run is digits with at most one blank or dash between two of them, so a date of expiry or a check code behind a card
number is in its run. What is sought is a few of its groups that are laid out as a card number is, or the run as a
whole, which pass Luhn's check.

    D digits of all runs    G groups of digits of all runs    W places where a layout stands
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

RUN = r"\b\d(?:[ -]?\d){12,}\b"
"""What holds a card number, in RE2's syntax."""
LEAST, MOST = 13, 19
"""Digits of a card number (ISO/IEC 7812-1)."""
_LAYOUTS = (
    (4, 4, 4, 4, 3), (4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (6, 13), *((size,) for size in range(MOST, LEAST - 1, -1)),
)  # fmt: skip
"""Digits of the groups of a card number; of two that begin at one group the first is taken."""


def card_numbers(runs: pa.Array) -> Ints:
    """How many card numbers stand in each of the texts that are like `RUN`."""
    lists = pc.split_pattern_regex(runs, "[ -]")
    sizes_G = np.asarray(pc.binary_length(lists.flatten()), np.int64)
    run_G = np.asarray(pc.list_parent_indices(lists), np.int64)
    digits_D = np.frombuffer("".join(lists.flatten().to_pylist()).encode(), np.uint8).astype(np.int64) - ord("0")
    begin_G = np.cumsum(sizes_G) - sizes_G
    first, last = [], []
    for layout in _LAYOUTS:
        at_W = _standing(layout, sizes_G, run_G)
        at_W = at_W[_holds(digits_D, begin_G[at_W], sum(layout))]
        first.append(at_W)
        last.append(at_W + len(layout) - 1)
    counts = _apart(np.concatenate(first), np.concatenate(last), run_G, len(runs))
    digits = np.bincount(run_G, sizes_G, len(runs)).astype(np.int64)
    begin = np.cumsum(digits) - digits
    for size in range(LEAST, MOST + 1):
        whole = np.flatnonzero((counts == 0) & (digits == size))
        counts[whole[_holds(digits_D, begin[whole], size)]] = 1
    return counts


def _standing(layout: tuple[int, ...], sizes_G: Ints, run_G: Ints) -> Ints:
    """The groups at which `layout` begins, all of it in one run [W]."""
    count = max(len(sizes_G) - len(layout) + 1, 0)
    fits = run_G[:count] == run_G[len(run_G) - count :]
    for place, size in enumerate(layout):
        fits &= sizes_G[place : place + count] == size
    return np.flatnonzero(fits)


def _holds(digits_D: Ints, begin_W: Ints, size: int) -> Bools:
    """Whether the `size` digits from each place pass Luhn's check, and are not all 0 [W]."""
    number_WS = digits_D[begin_W[:, None] + np.arange(size)]
    doubled_WS = number_WS[:, -2::-2] * 2
    total_W = number_WS[:, ::-2].sum(axis=1) + (doubled_WS - 9 * (doubled_WS > 9)).sum(axis=1)
    return (total_W % 10 == 0) & number_WS.any(axis=1)


def _apart(first: Ints, last: Ints, run_G: Ints, runs: int) -> Ints:
    """How many of these pieces of each run are taken, from left to right, no group in two of them."""
    counts, taken = np.zeros(runs, np.int64), -1
    for at in np.argsort(first, kind="stable").tolist():
        if first[at] > taken:
            taken = int(last[at])
            counts[run_G[first[at]]] += 1
    return counts
