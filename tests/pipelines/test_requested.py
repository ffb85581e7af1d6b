"""Rank correlation against its definition by pairs of ranks, and what a table shows where levels have no answers."""

from __future__ import annotations

import math
import random

import pytest

from pipelines.report.requested import figures_of, rank_correlation
from pipelines.stages.requested import cell


def spearman(first: list[float], second: list[float]) -> float:
    """Pearson's of mean ranks, written out."""

    def ranks(values: list[float]) -> list[float]:
        return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]

    a, b = ranks(first), ranks(second)
    mean = (len(a) + 1) / 2
    top = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    return top / math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))


def test_rank_correlation_with_ties() -> None:
    assert rank_correlation([0, 1, 2, 3, 4], [1, 3, 2, 4, 5]) == pytest.approx(0.9)
    assert rank_correlation([0, 1, 2], [5, 4, 1]) == pytest.approx(-1)
    assert rank_correlation([0, 1, 2], [3, 3, 3]) is None
    draw = random.Random(2)
    for _ in range(50):
        first, second = ([float(draw.randint(0, 5)) for _ in range(7)] for _ in range(2))
        if len({*first}) > 1 < len({*second}):
            assert rank_correlation(first, second) == pytest.approx(spearman(first, second))


def test_a_level_without_answers_leaves_no_correlation() -> None:
    names = [cell(1, level) for level in range(3)]
    figures = {f"{name}.{what}": 2.0 * at for at, name in enumerate(names) for what in ("mean", "count")}
    assert figures_of(figures, 1, (0, 1, 2)) == (0.0, (0, 1, 2), (0.0, 2.0, 4.0), pytest.approx(1))
    del figures["subject_1_level_2.mean"]
    assert figures_of(figures, 1, (0, 1, 2)) == (0.0, (0, 1, 2), (0.0, 2.0, None), None)
