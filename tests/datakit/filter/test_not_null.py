"""filter.not_null: which rows go, and what the schema says of those that stay."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.filter import NotNull
from schemas.errors import ConfigError, DataError
from schemas.schema import Schema
from tests.datakit.fakes import Example, scored

EXAMPLES = [Example(NotNull(columns=("reward",)), (scored(),))]


def test_rows_with_a_null_go_and_what_stays_is_never_null(put, tmp_path):
    table = pa.table({"name": ["a", "b", "c", "d"], "x": [1.0, None, math.nan, None], "y": [None, "s", "t", None]})
    out = apply(NotNull(columns=("y", "x")), put(table, cuts=(1,)), str(tmp_path / "o"))
    assert out.read()["name"].to_pylist() == ["c"], "a NaN is a value"
    assert {column.name: column.nullable for column in out.schema.columns} == {"name": True, "x": False, "y": False}
    rejected = out.read_rejected().select(["name", "reason", "threshold"]).to_pylist()
    assert [tuple(row.values()) for row in rejected] == [("a", "null", "y"), ("b", "null", "x"), ("d", "null", "y")]


def test_rows_of_which_none_would_stay_are_refused_before_the_work(put, tmp_path):
    """No row has both values, though each column has one; where that is fine, it can be said."""
    table = pa.table({"name": ["a", "b", "c"], "x": [1.0, None, None], "y": [None, "s", None]})
    rows = put(table, cuts=(1, 2))
    with pytest.raises(DataError, match="none of 3 rows has a value in x and y") as fault:
        apply(NotNull(columns=("x", "y")), rows, str(tmp_path / "o"))
    assert (fault.value.slug, fault.value.where) == ("nothing-kept", rows.url)
    assert """--columns '{"x": "KEY", "y": "KEY"}'""" in fault.value.next
    assert not (tmp_path / "o").exists()
    empty = apply(NotNull(columns=("x", "y"), allow_empty=True), rows, str(tmp_path / "o"))
    assert (empty.num_rows, sum(file.rows for file in empty.rejected)) == (0, 3)
    last = apply(NotNull(columns=("y",)), rows, str(tmp_path / "p"))
    assert last.read()["name"].to_pylist() == ["b"], "the first shard has none"


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="has no column nothing"):
        NotNull(columns=("nothing",)).gives(Schema.of_arrow(scored().schema))
    with pytest.raises(ConfigError, match="no column is given"):
        NotNull(columns=())
