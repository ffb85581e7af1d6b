"""label.standardize: equal to numpy over the whole; where there is no scale, that is an error, not divided by."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.label import Standardize
from schemas import REWARDS
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example

EXAMPLES = [Example(Standardize()), Example(Standardize(mean=1.0, std=2.0, output="z"))]


def rewards(numbers) -> pa.Table:
    table = REWARDS.example(len(numbers))
    return REWARDS.conform(table.set_column(3, "reward", pa.array(numbers, pa.float64())))


@pytest.mark.parametrize("cuts", [(), (1, 2, 400)])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_equal_to_numpy_over_the_whole(put, tmp_path, cuts, shift):
    numbers = np.random.default_rng(1).normal(size=500) * 3 + shift
    out = apply(Standardize(), put(rewards(numbers), cuts), str(tmp_path / "out")).read()["reward"].to_numpy()
    assert out == pytest.approx((numbers - numbers.mean()) / numbers.std(ddof=1), rel=1e-9, abs=1e-9)


def test_given_moments_and_a_new_column(put, tmp_path):
    out = apply(Standardize(mean=1.0, std=2.0, output="z"), put(rewards([1.0, 5.0])), str(tmp_path / "out"))
    assert out.read().select(["reward", "z"]).to_pylist() == [
        {"reward": 1.0, "z": 0.0},
        {"reward": 5.0, "z": 2.0},
    ]


@pytest.mark.parametrize("numbers", [[0.1] * 7, [4.0]])
def test_no_scale(put, tmp_path, numbers):
    given = put(rewards(numbers), (len(numbers) // 2,))
    with pytest.raises(DataError, match=r"error\[10/zero-std\]: reward has the same value everywhere"):
        apply(Standardize(), given, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    out = apply(Standardize(zero_std="zero"), given, str(tmp_path / "zero"))
    assert out.read()["reward"].to_pylist() == [0.0] * len(numbers)


def test_numbers_too_far_apart_for_a_standard_deviation(put, tmp_path):
    given = put(rewards([1e200, -1e200, 0.0]), (1, 2))
    with pytest.raises(DataError, match=r"error\[10/no-standard-deviation\]: reward has numbers so far apart") as fault:
        apply(Standardize(), given, str(tmp_path / "out"))
    assert fault.value.found == "-1e+200 .. 1e+200"
    assert apply(Standardize(mean=0.0, std=1e200), given, str(tmp_path / "given")).read()["reward"].to_pylist() == [
        1.0,
        -1.0,
        0.0,
    ]


def test_no_rows(put, tmp_path):
    assert apply(Standardize(), put(rewards([])), str(tmp_path / "out")).num_rows == 0


@pytest.mark.parametrize(
    "settings", [{"mean": 1.0}, {"std": 1.0}, {"mean": 0.0, "std": -1.0}, {"mean": 0.0, "std": float("nan")}]
)
def test_half_given_moments_are_refused(settings):
    with pytest.raises(ConfigError, match="bad-setting"):
        Standardize(**settings)
