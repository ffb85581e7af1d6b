"""sql.query: rows given by a SELECT over datasets, and the SELECTs that are refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.filter import Where
from datakit.sql import Query
from schemas import PROMPTS, Column, Dataset, Schema
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example

EXAMPLES = [
    Example(
        Query(tables=("rows",), query="SELECT prompt_id, messages FROM rows ORDER BY prompt_id", kind="questions"),
        (PROMPTS.example(12),),
    )
]


SAMPLES = Schema("s", 1, (Column("id", pa.string(), "the id"), Column("text", pa.string(), "the text")), key=("id",))
REWARDS = Schema("r", 1, (Column("id", pa.string(), "the id"), Column("reward", pa.float64(), "higher is better")))
TABLES = ("samples", "rewards")


@pytest.fixture
def inputs(put):
    samples = pa.table({"id": ["a", "b", "c"], "text": ["A", "B", "C"]})
    rewards = pa.table({"id": ["b", "a", "c"], "reward": [2.0, 1.0, 3.0]})
    return [put(samples, (1,), SAMPLES), put(rewards, (2,), REWARDS)]


def test_a_join(inputs, tmp_path):
    op = Query(
        tables=TABLES,
        query="WITH good AS (FROM rewards WHERE reward > 1) "
        "SELECT id, text, reward * 2 AS twice FROM samples JOIN good USING (id) ORDER BY id DESC",
        kind="joined",
        key=("id",),
    )
    out = apply(op, inputs, str(tmp_path / "o"))
    assert out.read().to_pydict() == {"id": ["c", "b"], "text": ["C", "B"], "twice": [6.0, 4.0]}
    assert out.schema["text"] == SAMPLES["text"]
    assert out.schema["twice"].nullable
    assert out.schema.key == ("id",)
    assert Query.of(op.params()) == op


def test_a_null_in_a_column_that_had_none_is_reported(inputs, tmp_path):
    op = Query(tables=TABLES, query="SELECT samples.id, reward FROM samples LEFT JOIN rewards ON false")
    with pytest.raises(DataError, match="reward is null in 3 of 3"):
        apply(op, inputs, str(tmp_path / "o"))


def test_an_error_in_a_row_is_reported(inputs, tmp_path):
    op = Query(tables=TABLES, query="SELECT CAST(text AS INTEGER) AS n FROM samples")
    with pytest.raises(DataError, match="Could not convert"):
        apply(op, inputs, str(tmp_path / "o"))


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("SELECT", "not one SELECT"),
        ("DROP TABLE samples", "not one SELECT"),
        ("SELECT 1 AS a; SELECT 2 AS a", "not one SELECT"),
        ("COPY samples TO 'x'", "not one SELECT"),
        ("SELECT * FROM 'file.parquet'", "not among its tables"),
        ("SELECT * FROM information_schema.tables", "not among its tables"),
        ("SELECT * FROM duckdb_tables", "not among its tables"),
        (
            "SELECT s.* FROM samples s, (WITH duckdb_tables AS (SELECT 1) FROM duckdb_tables), duckdb_tables",
            "reads duckdb",
        ),
        ("WITH duckdb_tables AS (FROM duckdb_tables) FROM duckdb_tables", "reads duckdb_tables"),
        ("WITH a AS (FROM duckdb_tables), duckdb_tables AS (SELECT 1) FROM a", "reads duckdb_tables"),
        ("FROM samples WHERE id IN (WITH pg_am AS (SELECT 'a') FROM pg_am) OR EXISTS (FROM pg_am)", "reads pg_am"),
        ("SELECT * FROM read_text('/etc/passwd')", r"reads from read_text\(\)"),
        ("SELECT * FROM duckdb_settings()", r"reads from duckdb_settings\(\)"),
        (
            "SELECT * FROM samples WHERE id IN (SELECT content FROM read_text('/etc/passwd'))",
            "reads from read_text",
        ),
        ("SELECT * FROM samples USING SAMPLE 1", "by chance"),
        ("SELECT * FROM samples ORDER BY random()", r"random\(\)"),
        ("SELECT current_date AS d FROM samples", "current_date"),
        ("SELECT now() AS d FROM samples", r"now\(\)"),
        ("SELECT $1 AS a FROM samples", "parameter"),
        ("SELECT nowhere FROM samples", "cannot be bound"),
        ("SELECT id, id FROM samples", "different names"),
        ("DESCRIBE samples", "about the session|not one SELECT"),
    ],
)
def test_queries_that_are_refused(query, fault):
    with pytest.raises(ConfigError, match=fault):
        Query(tables=TABLES, query=query).gives(SAMPLES, REWARDS)


def test_names_of_with_are_read_where_they_hold(inputs, tmp_path):
    """By later ones, by themselves where they are recursive, in sub-selects and modifiers; one hides a table."""
    query = """
        WITH RECURSIVE two AS (SELECT id, text FROM samples WHERE id <> 'c'),
            steps AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM steps WHERE n < 3),
            samples AS (SELECT t.id, s.n FROM two t, steps s)
        SELECT id, n FROM (WITH one AS (FROM samples WHERE n = 3) SELECT * FROM one) AS inside
        ORDER BY (SELECT count(*) FROM two WHERE two.id < inside.id) DESC
    """
    out = apply(Query(tables=TABLES, query=query), inputs, str(tmp_path / "o"))
    assert out.read().to_pydict() == {"id": ["b", "a"], "n": [3, 3]}


def test_an_error_of_several_lines_is_one_line():
    with pytest.raises(ConfigError) as fault:
        Query(tables=TABLES, query="SELECT promt FROM samples").gives(SAMPLES, REWARDS)
    assert "Candidate bindings" in fault.value.what and "\\n" not in fault.value.what


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="each once"):
        Query(tables=("a", "a"), query="SELECT 1")
    with pytest.raises(ConfigError, match="hold the key"):
        Query(tables=TABLES, query="SELECT text FROM samples", key=("id",)).gives(SAMPLES, REWARDS)
    with pytest.raises(ConfigError, match="needs 2 inputs, got 1"):
        Query(tables=TABLES, query="SELECT 1").gives(SAMPLES)


def test_numbers_of_float16_come_out_as_those_that_they_are(tmp_path):
    """Arrow's float16 is no type of DuckDB's; inside of lists, too."""
    kinds = {"id": pa.string(), "number": pa.float16(), "lists": pa.list_(pa.list_(pa.float16()))}
    kind = Schema("halves", 1, tuple(Column(name, one, name) for name, one in kinds.items()), key=("id",))
    values = {"id": ["a", "b"], "number": [0.1, -6.5], "lists": [[[0.1, 3.0]], [[], [-2.5]]]}
    rows = pa.table({name: pa.array(values[name], one) for name, one in kinds.items()})
    given = Dataset.from_arrow(rows, kind, str(tmp_path / "halves"))
    query = "SELECT *, list_sum(lists[-1]) AS total FROM halves WHERE number < 1 ORDER BY id"
    out = apply(Query(tables=("halves",), query=query, key=("id",)), given, str(tmp_path / "out"))
    assert out.schema["number"].type == pa.float32() and out.schema["lists"].type == pa.list_(pa.list_(pa.float32()))
    assert not out.schema["lists"].nullable and out.schema["lists"].meaning == "lists"
    read = out.read()
    tenth = float(np.float16(0.1))
    assert read["number"].to_pylist() == [tenth, -6.5]
    assert read["lists"].to_pylist() == [[[tenth, 3.0]], [[], [-2.5]]]
    assert read["total"].to_pylist() == [tenth + 3, -2.5]
    few = apply(Where(predicate="number < 0 AND lists[2][1] = -2.5"), given, str(tmp_path / "few"))
    assert few.read().equals(given.read().slice(1))
