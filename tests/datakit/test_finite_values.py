"""Exact quantiles of a whole dataset's column: numpy's, from one scan of that column, in memory or in a file."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.columns import measurement
from datakit.columns.measurement import FiniteValues
from datakit.filter import Threshold
from schemas.dataset import Dataset
from schemas.errors import StorageError

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


def rows(values: object) -> pa.Table:
    column = pa.array(values, pa.float64(), from_pandas=False)
    return pa.table({"id": [str(n) for n in range(len(column))], "text": ["words"] * len(column), "reward": column})


@given(st.lists(FLOATS, min_size=1, max_size=40), st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_every_quantile_is_numpys(put: Callable[..., Dataset], values: list[float], shares: list[float]) -> None:
    finite = FiniteValues(put(rows(values), (len(values) // 2,)), "reward")
    assert [finite.at(share) for share in shares] == [float(np.quantile(values, share)) for share in shares]


@pytest.mark.parametrize("most", [1 << 24, 100])
def test_many_values_in_memory_or_in_a_file(
    put: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(measurement, "_IN_MEMORY", most)
    values = np.random.default_rng(0).normal(size=200_000) * 10
    finite = FiniteValues(put(rows(values), (1, 70_000, 70_001)), "reward")
    assert isinstance(finite._values, np.memmap) is (most == 100)
    for share in (0.0, 0.01, 0.25, 0.5, 0.9, 0.999, 1.0):
        assert finite.at(share) == np.quantile(values, share)
    assert np.array_equal(np.sort(np.concatenate(list(finite.chunks()))), np.sort(values))


def test_what_is_no_finite_number_is_left_out(put: Callable[..., Dataset]) -> None:
    finite = FiniteValues(put(rows([1.0, None, math.nan, math.inf, -math.inf, -0.0])), "reward")
    assert (len(finite), finite.at(0.5), finite.nth(0, 1)) == (2, 0.5, [0.0, 1.0])
    assert len(FiniteValues(put(rows([])), "reward")) == 0


def test_a_threshold_scans_its_column_once_and_no_other(
    put: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = put(rows(np.arange(100.0)), (30, 60))
    scans: list[tuple[int, object]] = []
    batches = Dataset.batches

    def counted(self: Dataset, index: int, count: int, columns: object = None) -> object:
        scans.append((index, columns))
        return batches(self, index, count, columns)  # type: ignore[arg-type]

    monkeypatch.setattr(Dataset, "batches", counted)
    monkeypatch.setattr(Dataset, "read_shard", lambda *_, **__: pytest.fail("a shard was read whole"))
    bounds = Threshold(minimum_quantile=0.25, maximum_quantile=0.75).prepare(dataset)
    assert bounds == {"minimum": np.quantile(np.arange(100.0), 0.25), "maximum": np.quantile(np.arange(100.0), 0.75)}
    assert scans == [(0, ["reward"]), (1, ["reward"]), (2, ["reward"])]


def test_a_temporary_folder_without_room_is_reported(
    put: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(measurement, "_IN_MEMORY", 2)
    monkeypatch.setattr(measurement.os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"no-space|ENOSPC"):
        FiniteValues(put(rows([1.0, 2.0, 3.0])), "reward")
