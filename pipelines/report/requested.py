"""What was asked for and what came, level by level, with their rank correlation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.report.figures import Figure, FigureTable, Value
from pipelines.stages.requested import cell, error

_COLUMNS = (
    Figure("answers", ",.0f", meaning="answers at each level"),
    Figure("requested", "g", between=" ", meaning="levels that are asked for"),
    Figure("measured", ",.3g", between=" ", meaning="mean over the answers at each level"),
    Figure("rank correlation", ".2f", meaning="Spearman's, of levels and means; 1: more asked for is more given"),
)
"""Of a table with one row a subject, behind the subject's name."""
_ERROR = Figure("error", ".3g", meaning="mean distance of an answer's measured value from the level asked for")


def requested_table(
    title: str, first: str, subjects: Sequence[str], levels: Sequence[float], figures: Mapping[str, float]
) -> FigureTable:
    """A row for each of `subjects`, below the name `first`, of what `stages.requested.measured` makes."""
    rows = [(name, *figures_of(figures, number, levels)) for number, name in enumerate(subjects)]
    columns: tuple[Figure, ...] = (Figure(first), *_COLUMNS)
    if error(0) + ".mean" in figures:
        columns = (*columns, _ERROR)
        rows = [(*row, figures.get(f"{error(number)}.mean")) for number, row in enumerate(rows)]
    return FigureTable(f"{title}: what was asked for and what came", columns, tuple(rows))


def figures_of(
    figures: Mapping[str, float], subject: int, levels: Sequence[float]
) -> tuple[Value | tuple[Value, ...], ...]:
    """The cells below `_COLUMNS` of a subject; a level without answers has no mean, which leaves no correlation."""
    names = [cell(subject, level) for level in range(len(levels))]
    means = [figures.get(f"{name}.mean") for name in names]
    known = [mean for mean in means if mean is not None]
    correlation = rank_correlation(levels, known) if len(known) == len(levels) else None
    return min(figures.get(f"{name}.count", 0.0) for name in names), tuple(levels), tuple(means), correlation


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's, equal values sharing their mean rank; None where all of one side are equal."""
    a, b = (_ranks(np.asarray(values, np.float64)) for values in (first, second))
    return None if np.ptp(a) == 0 or np.ptp(b) == 0 else float(np.corrcoef(a, b)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    below, upto = (np.searchsorted(np.sort(values), values, side=side) for side in ("left", "right"))
    return np.asarray((below + upto - 1) / 2)
