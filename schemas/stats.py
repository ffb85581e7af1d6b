"""Summaries that merge: count, mean, M2 (sum of squared distances from the mean), min and max of a column.

They are plain JSON numbers in the manifest, so that a later stage has global numbers without reading rows.
Merging follows Chan, Golub and LeVeque (1979) and is done in shard order, so a dataset has one set of stats
whatever finished first. A list column is summarised by its lengths, under `<name>.length`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

Moments = dict[str, float]
"""count, nulls, nonfinite, mean, m2, min, max; the last four are missing when count is 0, mean and m2 also where a
float64 does not hold them.
"""


def moments(values: pa.ChunkedArray | pa.Array) -> Moments:
    """Moments of the finite values of a numeric column."""
    nulls = values.null_count
    numbers = pc.drop_null(values.cast(pa.float64(), safe=False))
    finite = numbers.filter(pc.is_finite(numbers))
    count = len(finite)
    measured: Moments = {"count": count, "nulls": nulls, "nonfinite": len(numbers) - count}
    if count:
        ends = pc.min_max(finite).as_py()
        mean = pc.mean(finite).as_py()
        spread = pc.variance(finite).as_py() * count
        if math.isfinite(mean) and math.isfinite(spread):
            measured |= {"mean": mean, "m2": spread}
        measured |= {"min": ends["min"], "max": ends["max"]}
    return measured


def measure(table: pa.Table) -> dict[str, Moments]:
    """Moments of every numeric column and of the lengths of every list column."""
    measured = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            measured[name] = moments(column)
        elif pa.types.is_list(column.type):
            measured[f"{name}.length"] = moments(pc.list_value_length(column))
    return measured


def merge_moments(one: Moments, other: Moments) -> Moments:
    """Moments of the union of two disjoint sets of rows."""
    count = one["count"] + other["count"]
    merged: Moments = {name: one[name] + other[name] for name in ("count", "nulls", "nonfinite")}
    filled = [part for part in (one, other) if part["count"]]
    if len(filled) == 1:
        merged |= {name: filled[0][name] for name in ("mean", "m2", "min", "max") if name in filled[0]}
    elif filled:
        if "mean" in one and "mean" in other:
            step = other["mean"] - one["mean"]
            mean = one["mean"] + step * other["count"] / count
            m2 = one["m2"] + other["m2"] + step * step * one["count"] * other["count"] / count
            if math.isfinite(mean) and math.isfinite(m2):
                merged |= {"mean": mean, "m2": m2}
        merged["min"], merged["max"] = min(one["min"], other["min"]), max(one["max"], other["max"])
    return merged


def merge_measures(parts: Iterable[Mapping[str, Moments]]) -> dict[str, Moments]:
    """`measure` of the tables laid end to end, from the measures of each."""
    merged: dict[str, Moments] = {}
    for part in parts:
        for name, measured in part.items():
            merged[name] = merge_moments(merged[name], measured) if name in merged else dict(measured)
    return merged


def merge_counts(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Sums by name, names in order; for the reasons of rejected rows."""
    merged: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            merged[name] = merged.get(name, 0) + count
    return dict(sorted(merged.items()))


def count_values(values: pa.ChunkedArray | pa.Array) -> dict[str, int]:
    """How often each text occurs; null counts as "null"."""
    pairs = pc.value_counts(values).to_pylist()
    return merge_counts([{str("null" if pair["values"] is None else pair["values"]): pair["counts"]} for pair in pairs])


def std(measured: Mapping[str, Any]) -> float:
    """Standard deviation of moments, unbiased (n - 1); 0 for fewer than two values, NaN where they have no m2."""
    return math.sqrt(measured.get("m2", math.nan) / (measured["count"] - 1)) if measured["count"] > 1 else 0.0
