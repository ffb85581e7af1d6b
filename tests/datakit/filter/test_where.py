"""filter.where: what a predicate keeps, and that NULL and NaN never pass."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datakit.apply import apply
from datakit.filter import Where
from datakit.op import Context
from schemas.errors import ConfigError
from tests.datakit.fakes import Example, scored

EXAMPLES = [Example(Where(predicate="reward > 1 AND sample_index < 2"), (scored(),))]

NAN = math.nan


def kept(predicate, table):
    return table.filter(Where(predicate=predicate).keep(table, Context()).keep)["sample_id"].to_pylist()


def test_rows_that_go_say_false_or_null(put, answers, tmp_path):
    op = Where(predicate="reward > 0.5 AND length(response) < 100")
    out = apply(op, put(answers({"a": [0.4, 0.6, NAN, None]})), str(tmp_path / "o"))
    assert out.read()["sample_id"].to_pylist() == ["a1"]
    rejected = out.read_rejected().select(["sample_id", "reason", "threshold"]).to_pylist()
    assert [tuple(row.values()) for row in rejected] == [
        ("a0", "false", op.predicate),
        ("a2", "null", op.predicate),
        ("a3", "null", op.predicate),
    ]
    assert out.manifest.op["params"] == {"predicate": op.predicate}


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        ("reward >= 0.5", ["a1", "b0"]),
        ("reward IS NULL", ["a2"]),
        ("NOT reward > 0.5", ["a0", "a1"]),
        ("prompt_id = 'b' OR sample_index = 0", ["a0", "b0"]),
        ("messages[-1].content LIKE '%question b'", ["b0"]),
        ("len(list_filter(messages, lambda m: m.role = 'assistant')) = 0", ["a0", "a1", "a2", "b0"]),
        ("1 / (sample_index - 1) < 0 -- a division by zero is no answer", ["a0", "b0"]),
        ("CAST(response[8:] AS INTEGER) > 0", []),
        ("true", ["a0", "a1", "a2", "b0"]),
        ("rows.reward > 0.8", ["b0"]),
    ],
)
def test_predicates_by_hand(answers, predicate, expected):
    assert kept(predicate, answers({"a": [0.1, 0.5, NAN], "b": [0.9]})) == expected


@settings(max_examples=20)
@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=8),
    st.sampled_from(["reward > 0", "reward < 0", "reward <> 0"]),
)
def test_one_broken_row_changes_no_result(answers, values, predicate):
    assert kept(predicate, answers({"a": [*values, NAN]})) == kept(predicate, answers({"a": values}))


def test_the_predicate_is_checked_before_the_run(put, answers, tmp_path):
    dataset = put(answers({"a": [1.0]}))
    with pytest.raises(ConfigError, match="did you mean reward"):
        apply(Where(predicate="rewards > 0"), dataset, str(tmp_path / "o"))
    assert not (tmp_path / "o").exists()


def test_no_rows(answers):
    assert kept("reward > 0", answers({})) == []


def test_large_text_columns_do_not_matter():
    rows = pa.table({"sample_id": ["x"], "text": pa.array(["y"], pa.large_string())})
    assert kept("text = 'y'", rows) == ["x"]
