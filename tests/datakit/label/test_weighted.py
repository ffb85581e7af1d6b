"""label.weighted: a sum worked by hand, rows without a number, and weights that are none."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.label import Weighted
from schemas.errors import ConfigError
from tests.datakit.fakes import Example

OP = Weighted(weights=(("right", 1.0), ("liked", 0.5), ("tokens", -0.25)))


def rows(**columns: list[float | None]) -> pa.Table:
    return pa.table({name: pa.array(values, pa.float64()) for name, values in columns.items()})


GIVEN = rows(right=[1.0, 0.0, 1.0], liked=[2.0, -1.0, 0.0], tokens=[4.0, 2.0, 0.0])
EXAMPLES = [Example(OP, (OP.takes.conform(GIVEN),))]


def test_it_is_the_sum_by_hand(put, tmp_path) -> None:
    """1 + 1 - 1, -.5 - .5, 1."""
    made = apply(OP, put(OP.takes.conform(GIVEN)), str(tmp_path / "made")).read()
    assert made["reward"].to_pylist() == [1.0, -1.0, 1.0] and made["liked"].to_pylist() == [2.0, -1.0, 0.0]


def test_a_row_without_a_number_goes(put, tmp_path) -> None:
    bad = rows(right=[None, 1.0, 1e308, 1.0], liked=[1.0, math.nan, 0.0, 0.0], tokens=[0.0, 0.0, -1e309, 4.0])
    made = apply(OP, put(OP.takes.conform(bad)), str(tmp_path / "made"))
    assert made.read()["reward"].to_pylist() == [0.0]
    assert made.read_rejected()["reason"].to_pylist() == ["not-finite"] * 3


@pytest.mark.parametrize("weights", [(), (("a", 1.0), ("a", 2.0)), (("a", math.inf),)])
def test_weights_that_are_none_are_refused(weights: Any) -> None:
    with pytest.raises(ConfigError, match="no finite numbers of different columns"):
        Weighted(weights=weights)
