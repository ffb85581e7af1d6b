"""Means by hand, by slice; intervals over prompts."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.measure import Mean
from schemas import Column, Schema
from schemas.errors import ConfigError
from tests.datakit.fakes import Example

NUMBERS = Schema(
    "measured",
    1,
    (
        Column("prompt_id", pa.string(), "the question"),
        Column("right", pa.float64(), "a number", nullable=True),
        Column("source", pa.string(), "where from"),
    ),
)


def measured(right, prompts=None) -> pa.Table:
    names = [f"p{at}" for at in range(len(right))] if prompts is None else prompts
    sources = ["even" if at % 2 == 0 else "odd" for at in range(len(right))]
    return NUMBERS.conform(pa.table({"prompt_id": names, "right": pa.array(right, pa.float64()), "source": sources}))


OP = Mean(columns=("right",), slices=("source",))
EXAMPLES = [Example(OP, (measured([1.0, 0.0, None, 1.0, 1.0, 0.0]),))]


def figures(op: Mean, rows: pa.Table, put, place) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in apply(op, put(rows), str(place)).read().to_pylist()}


def test_means_by_hand(put, tmp_path):
    made = figures(OP, measured([1.0, 0.0, None, 1.0, 1.0, 0.0, float("nan")]), put, tmp_path / "out")
    assert (made["right"], made["right.rows"]) == (0.6, 5)
    assert made["right[source=even]"] == 1.0 and made["right[source=odd]"] == pytest.approx(1 / 3)
    assert made["right.rows[source=even]"] == 2


def test_the_interval_covers_the_truth_about_as_often_as_it_says(put, tmp_path):
    rng = np.random.default_rng(5)
    inside = 0
    for at in range(40):
        made = figures(Mean(columns=("right",), draws=400), measured(rng.normal(3.0, 1.0, 60)), put, tmp_path / str(at))
        inside += made["right.low"] <= 3.0 <= made["right.high"]
    assert 33 <= inside <= 40


def test_answers_to_one_prompt_are_no_new_evidence(put, tmp_path):
    values = np.random.default_rng(1).normal(size=50)
    one = figures(Mean(columns=("right",)), measured(values), put, tmp_path / "1")
    prompts = [f"p{at}" for at in range(50)] * 8
    eight = figures(Mean(columns=("right",)), measured(np.tile(values, 8), prompts), put, tmp_path / "8")
    rows = figures(Mean(columns=("right",), group=""), measured(np.tile(values, 8), prompts), put, tmp_path / "rows")
    widths = [made["right.high"] - made["right.low"] for made in (one, eight, rows)]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)
    assert widths[2] == pytest.approx(widths[0] / math.sqrt(8), rel=0.15)


def test_nothing_finite_has_no_mean(put, tmp_path):
    made = figures(Mean(columns=("right",)), measured([None, None]), put, tmp_path / "out")
    assert made == {"right.rows": 0}


def test_what_cannot_be_measured_is_refused(put, tmp_path):
    for op, why in ((Mean(columns=("source",)), "not-a-number"), (Mean(columns=("rigt",)), "unknown-column"),
                    (Mean(columns=("right",), slices=("no",)), "unknown-column")):  # fmt: skip
        with pytest.raises(ConfigError, match=why):
            apply(op, put(measured([1.0])), str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="bad-setting"):
        Mean(columns=())
