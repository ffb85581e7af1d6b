"""How many rows (or tokens) each source gives: exact integers, by largest remainder (Hamilton's method).

Shares are decimal fractions, not floats, so 0.1 of 10 is 1 and sums are what the config says.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def largest_remainder(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers with the sum `total`, each within one of its exact share; ties: the earlier source."""
    exact = [share * total for share in exact_shares(weights)]
    whole = [int(quota) for quota in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (whole[i] - exact[i], i))
    for i in by_remainder[: total - sum(whole)]:
        whole[i] += 1
    return whole


def largest_total(weights: Sequence[float], sizes: Sequence[int], epochs: float) -> int:
    """The largest total at which no source gives more than `epochs` times its size."""
    bound = Fraction(repr(float(epochs)))
    return min(int(bound * size / share) for size, share in zip(sizes, exact_shares(weights), strict=True))


def exact_shares(weights: Sequence[float]) -> list[Fraction]:
    """`weights` over their sum, as exact fractions of the decimals that they are written as; they add up to 1."""
    exact = [Fraction(repr(float(weight))) for weight in weights]
    return [weight / sum(exact) for weight in exact]


def of_epochs(epochs: float, size: int) -> int:
    """`epochs` passes over `size`, a half rounded up."""
    return int(Fraction(repr(float(epochs))) * size + Fraction(1, 2))
