"""Intervals of a figure by the bootstrap over groups (Efron 1979; resampled whole, because answers to one prompt are
alike): a figure is a function of sums over rows, so that a draw is a weight for every group and a product.

    G groups    D sums that a figure is made of    B draws
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.columns.measurement import groups
from schemas import REPORTS

Floats = npt.NDArray[np.float64]

_WEIGHTS = 1 << 22
"""Weights that are in memory at a time (32 MiB)."""
LEVEL = 0.95


def interval(sums_GD: Floats, figure: Callable[[Floats], Floats], rng: np.random.Generator, draws: int) -> list[float]:
    """The figure and the ends of its 95 % percentile interval; `figure` takes sums [B, D] and gives [B] numbers.

    NaN where the figure has no value, and at both ends where there are fewer than two groups.
    """
    count = len(sums_GD)
    value = float(figure(sums_GD.sum(axis=0, keepdims=True))[0]) if count else float("nan")
    if count < 2 or not np.isfinite(value):
        return [value, float("nan"), float("nan")]
    step = max(1, _WEIGHTS // count)
    drawn = [
        figure(rng.multinomial(count, np.full(count, 1 / count), size=min(step, draws - start)) @ sums_GD)
        for start in range(0, draws, step)
    ]
    figures_B = np.concatenate(drawn)
    low, high = np.quantile(figures_B[np.isfinite(figures_B)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [value, float(low), float(high)]


def mean(sums_BD: Floats) -> Floats:
    """The mean of values whose sums stand first, their counts behind."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums_BD[:, 0] / sums_BD[:, 1]


def per_group(values_RD: Floats, keys: pa.Array | pa.ChunkedArray | None) -> Floats:
    """Sums [G, D] of the values of rows with equal keys; without keys each row is a group."""
    if keys is None:
        return values_RD
    group_R = groups(keys)
    sums_GD = np.zeros((int(group_R.max(initial=-1)) + 1, values_RD.shape[1]))
    np.add.at(sums_GD, group_R, values_RD)
    return sums_GD


def keyed_by(group: str, slices: Sequence[str]) -> tuple[str, ...]:
    """The columns that say which rows are resampled together (empty: each by itself) and which slices they are in."""
    return tuple(dict.fromkeys((*([group] if group else ()), *slices)))


def sliced(rows: pa.Table, slices: Sequence[str]) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """All rows under an empty name, then those of every value of each column, as `[column=value]`."""
    yield "", np.ones(rows.num_rows, bool)
    for column in slices:
        texts = rows[column].cast(pa.string()).to_numpy(zero_copy_only=False)
        for value in sorted({text for text in texts if text is not None}):
            yield f"[{column}={value}]", texts == value


def report(stage: str, figures: Mapping[str, float]) -> pa.Table:
    """The figures as rows of REPORTS; those without a value are left out."""
    known = {name: float(value) for name, value in figures.items() if np.isfinite(value)}
    columns = {"stage": [stage] * len(known), "metric": [*known], "value": [*known.values()]}
    return pa.table(columns, schema=REPORTS.arrow)


def with_ends(name: str, slice_name: str, figure: Sequence[float]) -> dict[str, float]:
    """A figure and the ends of its interval, by name."""
    return {f"{name}{end}{slice_name}": value for end, value in zip(("", ".low", ".high"), figure, strict=True)}
