"""filter.threshold: strict bounds, quantiles of the whole dataset, and what is said when nothing stays."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datakit.apply import apply
from datakit.filter import Threshold
from datakit.op import Context
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example, scored

EXAMPLES = [
    Example(Threshold(minimum=1.0), (scored(),)),
    Example(Threshold(minimum_quantile=0.5, strict=False, allow_empty=True), (scored(),)),
]

NAN = math.nan


def column(values):
    return pa.table({"id": [str(i) for i in range(len(values))], "reward": pa.array(values, pa.float64())})


def test_rest_keeps_strictly_above(put, tmp_path):
    out = apply(Threshold(minimum=0.0), put(column([0.0, 0.1, -0.1, NAN, None, math.inf, 2.0])), str(tmp_path / "o"))
    assert out.read()["reward"].to_pylist() == [0.1, 2.0]
    rejected = out.read_rejected().select(["id", "reason", "value", "threshold"]).to_pylist()
    assert [tuple(row.values()) for row in rejected] == [
        ("0", "below", 0.0, "> 0"),
        ("2", "below", -0.1, "> 0"),
        ("3", "not-finite", None, "> 0"),
        ("4", "not-finite", None, "> 0"),
        ("5", "not-finite", None, "> 0"),
    ]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"minimum": 2.0}, [3.0, 4.0]),
        ({"minimum": 2.0, "strict": False}, [2.0, 3.0, 4.0]),
        ({"maximum": 2.0}, [1.0]),
        ({"minimum": 1.0, "maximum": 4.0}, [2.0, 3.0]),
        ({"minimum_quantile": 0.5}, [3.0, 4.0]),
        ({"maximum_quantile": 0.0, "strict": False}, [1.0]),
        ({"minimum_quantile": 1.0, "strict": False}, [4.0]),
    ],
)
def test_bounds_by_hand(put, tmp_path, bounds, expected):
    out = apply(Threshold(**bounds), put(column([1.0, 2.0, 3.0, 4.0])), str(tmp_path / "o"))
    assert out.read()["reward"].to_pylist() == expected


def test_a_quantile_is_that_of_all_shards(put, tmp_path):
    values = [float(v) for v in range(10)]
    outs = [
        apply(Threshold(minimum_quantile=0.75), put(column(values), cuts), str(tmp_path / f"{len(cuts)}"))
        for cuts in [(), (5,), (1, 2, 9)]
    ]
    assert [out.read()["reward"].to_pylist() for out in outs] == [[7.0, 8.0, 9.0]] * 3


def test_counts_of_tokens_can_be_held_against_a_bound(put, tmp_path):
    rows = pa.table({"id": ["a", "b"], "tokens": pa.array([3, 9], pa.int64())})
    out = apply(Threshold(column="tokens", maximum=8.0), put(rows), str(tmp_path / "o"))
    assert out.read()["id"].to_pylist() == ["a"]


def test_nothing_kept_is_an_error_that_says_what_would_keep_a_tenth(put, tmp_path):
    dataset = put(column([v / 10 for v in range(100)]))
    with pytest.raises(DataError) as caught:
        apply(Threshold(minimum=50.0), dataset, str(tmp_path / "o"))
    text = caught.value.render()
    assert "keeps none of 100 rows" in text
    assert "range 0 .. 9.9" in text
    assert "> 8.9 keeps 10%" in text and '--params \'{"column": "reward", "minimum": 8.9}\'' in text
    assert Threshold(minimum=8.9).prepare(dataset)
    allowed = apply(Threshold(minimum=50.0, allow_empty=True), dataset, str(tmp_path / "e"))
    assert allowed.num_rows == 0


def test_advice_over_ties_keeps_something(put):
    with pytest.raises(DataError, match=r">= 1 keeps 90%(.|\n)*\"strict\": false"):
        Threshold(minimum=1.0).prepare(put(column([0.0] + [1.0] * 9)))
    with pytest.raises(DataError, match="no value is a finite number"):
        Threshold(minimum=1.0).prepare(put(column([NAN, None])))


@pytest.mark.parametrize(
    ("values", "bounds", "kept", "threshold", "note"),
    [
        # all tied: the quantile is the one value there is
        (
            [2.0] * 4,
            {"minimum_quantile": 0.4},
            4,
            None,
            "lies above the quantile 0.4, which many share: the 4 of 4 rows at 2",
        ),
        # nine tenths tied at the top: the quantile 0.4 of [0, 1 x 9] is 1, and nothing lies above it
        ([0.0] + [1.0] * 9, {"minimum_quantile": 0.4}, 9, ">= 1", "the 9 of 10 rows at 1"),
        ([0.0] * 9 + [1.0], {"maximum_quantile": 0.5}, 9, "<= 0", "lies below the quantile 0.5"),
        # tied at the bottom only: 0 is the quantile 0.4, the ones lie above it, and the zeros go as ever
        ([0.0] * 6 + [1.0] * 4, {"minimum_quantile": 0.4}, 4, "> 0", None),
        # a row that is not a number is no tie
        ([1.0, NAN, 1.0, None], {"minimum_quantile": 0.9}, 2, ">= 1", "the 2 of 4 rows at 1"),
        # an absolute bound beside it stays strict
        ([1.0, 1.0, 3.0], {"minimum_quantile": 0.0, "maximum": 3.0}, 2, ">= 1 and < 3", "the 2 of 3 rows at 1"),
    ],
)
def test_rows_tied_at_a_quantile_stay_where_nothing_lies_beyond_it(
    put, tmp_path, values, bounds, kept, threshold, note
):
    op = Threshold(**bounds)
    out = apply(op, put(column(values), (1,)), str(tmp_path / "o"))
    notes = op.notes(out.manifest)
    assert (out.num_rows, len(notes)) == (kept, note is not None)
    assert note is None or note in notes[0]
    assert threshold is None or set(out.read_rejected()["threshold"].to_pylist()) == {threshold}
    assert out.stats["counts"] == ({"ties": kept} if note else {})


def test_ties_are_kept_for_quantiles_alone(put, tmp_path):
    ones = put(column([1.0] * 5))
    with pytest.raises(DataError, match="keeps none of 5 rows"):
        apply(Threshold(minimum=1.0), ones, str(tmp_path / "a"))
    assert apply(Threshold(minimum_quantile=0.5, allow_empty=True), ones, str(tmp_path / "b")).num_rows == 0
    with pytest.raises(DataError, match=r"reward > 1 and < 1 keeps none"):
        apply(Threshold(minimum_quantile=0.5, maximum=1.0), ones, str(tmp_path / "c"))


def test_an_empty_dataset_stays_empty(put, tmp_path):
    assert apply(Threshold(minimum=0.0), put(column([])), str(tmp_path / "o")).num_rows == 0


@given(
    st.lists(st.floats(-100, 100), min_size=1, max_size=30),
    st.floats(0, 1),
    st.sampled_from([NAN, None, math.inf, -math.inf]),
)
def test_one_broken_row_changes_no_result(values, share, broken):
    op = Threshold(minimum_quantile=share, strict=False)
    results = []
    for rows in (values, [*values, broken]):
        finite = np.array(values)
        prepared = {"minimum": float(np.quantile(finite, share)), "maximum": None}
        results.append(np.asarray(op.keep(column(rows), Context(prepared=prepared)).keep)[: len(values)].tolist())
    assert results[0] == results[1]


@settings(max_examples=20)
@given(st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=20), st.floats(0, 1))
def test_prepare_reads_past_broken_rows(put, values, share):
    op = Threshold(minimum_quantile=share, strict=False)
    assert op.prepare(put(column([*values, NAN, None]))) == op.prepare(put(column(values), (1,)))


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ({}, "no bound"),
        ({"minimum": 1.0, "minimum_quantile": 0.5}, "exclude each other"),
        ({"minimum_quantile": 1.5}, "0..1"),
        ({"minimum": NAN}, "not finite"),
        ({"minimum": 2.0, "maximum": 1.0}, "above maximum"),
    ],
)
def test_settings_are_checked(bad, fault):
    with pytest.raises(ConfigError, match=fault):
        Threshold(**bad)
