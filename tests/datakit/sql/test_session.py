"""datakit.sql: what statements and predicates cannot do."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

from datakit.sql import Predicate, Session
from schemas import MESSAGES, Column, Schema
from schemas.errors import ConfigError, DataError

ROWS = Schema(
    "rows",
    1,
    (
        Column("reward", pa.float64(), "", nullable=True),
        Column("response", pa.string(), ""),
        Column("messages", MESSAGES, ""),
        Column("Prompt id", pa.string(), ""),
    ),
)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM '{canary}'",
        "SELECT * FROM read_csv('{canary}')",
        "SELECT * FROM read_text('{canary}')",
        "SELECT * FROM read_blob('{canary}')",
        "SELECT * FROM read_parquet('https://127.0.0.1:9/x.parquet')",
        "SELECT * FROM glob('/*')",
        "COPY (SELECT 1) TO '{canary}'",
        "ATTACH '{canary}'",
        "EXPORT DATABASE '{canary}'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET memory_limit = '1TB'",
        "SET threads = 64",
        "SET enable_external_access = true",
        "PRAGMA enable_profiling",
        "SELECT * FROM python_table",
    ],
)
def test_everything_else_is_shut(statement, tmp_path):
    canary = tmp_path / "canary.csv"
    canary.write_text("a,b\n1,2\n")
    python_table = pa.table({"a": [1]})
    with Session() as session, pytest.raises(duckdb.Error):
        session.rows(statement.format(canary=canary))
    assert canary.read_text() == "a,b\n1,2\n"
    assert sorted(tmp_path.iterdir()) == [canary]
    del python_table


def test_memory_is_bounded():
    with Session(memory="64MB") as session, pytest.raises(DataError, match="more than 64MB"):
        session.rows("SELECT string_agg(repeat('x', 1000000), '') FROM range(1000)")


def test_what_does_not_fit_spills():
    rows = pa.table({"text": [f"{i:0100d}" for i in range(200_000)]})
    with Session(memory="32MB") as session:
        session.load("rows", rows.schema, rows.to_batches(10_000))
        assert session.rows("SELECT count(*), count(DISTINCT text) FROM rows") == [(200_000, 200_000)]


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("", "predicate-empty"),
        ("x" * 20_000, "predicate-long"),
        ("reward >", "predicate-syntax"),
        ("reward > 1; DROP TABLE rows", "predicate-syntax"),
        ("true); DROP TABLE rows; SELECT (true", "predicate-syntax"),
        ("true) GROUP BY (reward", "predicate-syntax"),
        ("true) UNION SELECT 2 WHERE (true", "predicate-syntax"),
        ("true) LIMIT (1", "predicate-syntax"),
        ("reward > 1 /*", "predicate-syntax"),
        ("reward > (SELECT 1)", "predicate-forbidden"),
        ("EXISTS (FROM read_text('/etc/passwd'))", "predicate-forbidden"),
        ("reward IN (SELECT 1)", "predicate-forbidden"),
        ("row_number() OVER () > 1", "predicate-forbidden"),
        ("reward > $1", "predicate-forbidden"),
        ("reward > ?", "predicate-forbidden"),
        ("COLUMNS('r.*') > 1", "predicate-forbidden"),
        ("random() > 0.5", "predicate-forbidden"),
        ("now() > '2020-01-01'", "predicate-forbidden"),
        ("pg_sleep(1) > 1", "predicate-forbidden"),
        ("current_setting('threads') = '1'", "predicate-forbidden"),
        ("list_any_value([random() for x in messages]) > 1", "predicate-forbidden"),
        ("current_date > DATE '2020-01-01'", "unknown-column"),
        ("rewards > 1", "unknown-column"),
        ("other.reward > 1", "unknown-column"),
        ("sum(reward) > 1", "predicate-binding"),
        ("nosuch(reward)", "predicate-forbidden"),
        ("reward > [1]", "predicate-binding"),
        ("messages.role = 'user'", "predicate-binding"),
        ("read_text('/etc/passwd') IS NULL", "predicate-forbidden"),
        ("reward", "predicate-type"),
        ("response || 'x'", "predicate-type"),
    ],
)
def test_predicates_that_are_refused(text, slug):
    with pytest.raises(ConfigError) as caught:
        Predicate.of(text, ROWS)
    assert caught.value.slug == slug
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("reward > 1", ("reward",)),
        ("REWARD > 1 -- a comment", ("reward",)),
        ("\"Prompt id\" = 'a' AND length(response) > 3", ("response", "Prompt id")),
        ("rows.reward BETWEEN 0 AND 1", ("reward",)),
        ("len([m for m in messages if m.role = 'user']) > 1", ("messages",)),
        ("messages[1].content = 'x'", ("messages",)),
        ("true", ()),
    ],
)
def test_predicates_that_are_fine(text, columns):
    assert Predicate.of(text, ROWS).columns == columns


def test_values_are_true_false_or_null():
    rows = pa.table({"reward": [0.0, 2.0, float("nan"), None], "response": ["1", "2", "x", "4"]})
    schema = Schema.of_arrow(rows.schema)
    assert Predicate.of("reward > 1", schema).values(rows).to_pylist() == [False, True, None, None]
    assert Predicate.of("CAST(response AS INT) > 1", schema).values(rows).to_pylist() == [
        False,
        True,
        None,
        True,
    ]
    assert Predicate.of("1 / reward > 0", schema).values(rows).to_pylist() == [None, True, None, None]
