"""filter.not_null: which rows go, and what the schema says of those that stay."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.filter import NotNull
from schemas.errors import ConfigError
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


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="has no column nothing"):
        NotNull(columns=("nothing",)).gives(Schema.of_arrow(scored().schema))
    with pytest.raises(ConfigError, match="no column is given"):
        NotNull(columns=())
