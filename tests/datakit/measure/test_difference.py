"""Two datasets on the prompts that both have, by hand; a paired interval is the narrower one."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.measure import Difference
from schemas.errors import ConfigError
from tests.datakit.fakes import Example
from tests.datakit.measure.test_mean import measured

OP = Difference(column="right")
EXAMPLES = [Example(OP, (measured([1.0, 0.0, 1.0]), measured([0.0, 0.0, 1.0])))]


def figures(one, other, put, place) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in apply(OP, [put(one), put(other)], str(place)).read().to_pylist()}


def test_differences_by_hand(put, tmp_path):
    one = measured([1.0, 0.0, 1.0, 1.0, None], ["a", "a", "b", "c", "d"])
    other = measured([0.0, 1.0, 1.0, 1.0, 0.0], ["a", "b", "b", "e", "d"])
    made = figures(one, other, put, tmp_path / "out")
    assert made["difference"] == 0.25  # a: 0.5 against 0, b: 1 against 1
    assert made["wins"] == 0.75
    assert (made["prompts"], made["only_first"], made["only_second"]) == (2, 1, 2)


def test_what_all_prompts_share_does_not_widen_the_interval(put, tmp_path):
    hard = np.random.default_rng(3).normal(scale=10.0, size=200)
    made = figures(measured(hard + 0.5), measured(hard), put, tmp_path / "out")
    assert made["difference"] == pytest.approx(0.5)
    assert (made["difference.low"], made["difference.high"]) == pytest.approx((0.5, 0.5))
    assert made["wins"] == 1.0


def test_no_common_prompt_has_no_difference(put, tmp_path):
    made = figures(measured([1.0], ["a"]), measured([1.0], ["b"]), put, tmp_path / "out")
    assert made == {"prompts": 0, "only_first": 1, "only_second": 1}


def test_the_order_of_answers_decides_no_win(put, tmp_path):
    """0.1 + 0.2 + 0.3 and 0.3 + 0.2 + 0.1 differ in the last bit: the same answers are a tie."""
    one = measured([0.1, 0.2, 0.3, 1e9 + 0.1, 1e9 + 0.7, 5.0], ["a"] * 3 + ["b"] * 2 + ["c"])
    other = measured([0.3, 0.2, 0.1, 1e9 + 0.7, 1e9 + 0.1, 4.0], ["a"] * 3 + ["b"] * 2 + ["c"])
    made = figures(one, other, put, tmp_path / "out")
    assert made["wins"] == pytest.approx((0.5 + 0.5 + 1) / 3)


def test_rows_without_a_prompt_are_no_common_prompt(put, tmp_path):
    one = pa.table({"prompt_id": [None, None, "a"], "right": [1.0, 5.0, 2.0]})
    other = pa.table({"prompt_id": [None, "a"], "right": [9.0, 2.0]})
    made = figures(one, other, put, tmp_path / "out")
    assert (made["prompts"], made["difference"], made["wins"], made["only_first"]) == (1, 0.0, 0.5, 0)


def test_two_datasets_are_asked_for(put, tmp_path):
    with pytest.raises(ConfigError, match="two datasets"):
        apply(OP, put(measured([1.0])), str(tmp_path / "out"))
