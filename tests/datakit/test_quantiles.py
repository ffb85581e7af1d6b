"""Quantiles: numpy's on few values, within a cell on many, and the same however rows were cut and merged."""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.columns import quantiles
from datakit.columns.quantiles import Quantiles, merge, numbers

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


def of(values) -> Quantiles:
    return Quantiles.of(pa.array(np.asarray(values, np.float64)))


def cut(values, cuts) -> list[np.ndarray]:
    return np.split(np.asarray(values, np.float64), sorted(min(cut, len(values)) for cut in cuts))


@given(st.lists(FLOATS, min_size=1, max_size=40), st.floats(0, 1))
def test_equal_to_numpy(values, share):
    assert of(values).at(share) == pytest.approx(np.quantile(values, share), rel=1e-9, abs=1e-30)


@pytest.mark.parametrize("limit", [3, 1 << 16])
@given(values=st.lists(FLOATS, max_size=40), cuts=st.lists(st.integers(0, 40), max_size=4))
def test_the_cut_does_not_matter(limit, values, cuts):
    before, quantiles.EXACT = quantiles.EXACT, limit
    try:
        whole, merged = of(values), functools.reduce(Quantiles.merged, map(of, cut(values, cuts)))
    finally:
        quantiles.EXACT = before
    assert whole.cells.tolist() == merged.cells.tolist()
    assert whole.counts.tolist() == merged.counts.tolist()
    assert whole.folded == merged.folded


def test_many_values_are_right_within_a_thousandth():
    values = np.random.default_rng(0).normal(size=200_000) * 10
    quantiles = of(values)
    assert quantiles.folded
    assert len(quantiles.cells) < 100_000
    assert quantiles.at(0.0) == pytest.approx(values.min(), rel=1e-3)
    assert quantiles.at(1.0) == values.max()
    for share in (0.01, 0.25, 0.5, 0.9, 0.999):
        assert quantiles.at(share) == pytest.approx(np.quantile(values, share), rel=1e-3, abs=1e-3)


def test_few_distinct_values_stay_exact_however_many_there_are():
    quantiles = functools.reduce(Quantiles.merged, [of([0.0, 1.0] * 1000)] * 50)
    assert (quantiles.count, quantiles.folded, set(quantiles.percentiles())) == (100_000, False, {0.0, 0.5, 1.0})


def test_what_is_no_number_is_left_out():
    quantiles = Quantiles.of(pa.array([1.0, None, float("nan"), float("inf"), -0.0]))
    assert (quantiles.count, quantiles.cells.tolist(), quantiles.at(0.5)) == (2, [0.0, 1.0], 0.5)
    assert Quantiles.of(pa.array([], pa.int64())).percentiles() == []


def test_numbers_and_lengths_of_lists():
    table = pa.table(
        {"n": [1, 2], "x": [0.5, None], "ids": pa.array([[1], [1, 2]], pa.list_(pa.int32())), "t": ["a", "b"]}
    )
    columns = numbers(table)
    assert columns.column_names == ["n", "x", "ids.length"]
    assert columns["ids.length"].to_pylist() == [1.0, 2.0]
    assert merge([{"n": of([1])}, {"n": of([3]), "m": of([])}])["n"].at(0.5) == 2
