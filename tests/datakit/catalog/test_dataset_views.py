"""Any dataset as a table of a query, by the name that `quiver ls` prints."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from datakit.sql import ask, connect
from schemas import SAMPLES, Column, Schema
from schemas.errors import ConfigError, QuiverError
from tests.datakit.catalog.workspaces import Maker, samples

MEASURED = Schema(
    "measured",
    1,
    (
        Column("sample_id", pa.string(), "the sample"),
        Column("op", pa.int64(), "a number"),
        Column("Step", pa.int64(), ""),
    ),
    key=("sample_id",),
)


def measured(ids: str, number: int) -> pa.Table:
    """A row for each letter of `ids`."""
    rows = {"sample_id": [*ids], "op": [number] * len(ids), "Step": [1] * len(ids)}
    return MEASURED.conform(pa.table(rows))


@pytest.fixture
def root(make: Maker) -> Path:
    """A dataset in two variants, one that holds what no view shows, and one whose name is of SQL."""
    make("mine/rows-00000001", MEASURED, measured("ab", 1), params={"variant": 1})
    make("mine/rows-00000002", MEASURED, [measured("abc", 2), measured("d", 3)], params={"variant": 2})
    make("select", MEASURED, measured("a", 4))
    make("own/samples-00000001", SAMPLES, samples(3), op="generate.complete")
    return make.root


def answer(root: Path, query: str) -> list[tuple[object, ...]]:
    rows = pa.Table.from_batches(list(ask(root, query)))
    return [tuple(row.values()) for row in rows.to_pylist()]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("""SELECT count(*), sum(op) FROM "mine/rows" """, [(4, 9)]),
        ("""SELECT count(*) FROM 'mine/rows-00000001'""", [(2,)]),
        ("""SELECT sample_id FROM "mine/rows-00000002" ANTI JOIN 'mine/rows-00000001' USING (sample_id) ORDER BY 1""",
         [("c",), ("d",)]),
        ("""FROM "mine/rows-00000001" ORDER BY sample_id""", [("a", 1, 1), ("b", 1, 1)]),
        ("""SELECT max(one.op), count(*) FROM samples, "select" AS one""", [(4, 3)]),
        ("""WITH "mine" AS (FROM samples) SELECT count(*) FROM "mine" """, [(3,)]),
        ("""SELECT 'x, "mine/rows"' AS t FROM samples LIMIT 1""", [('x, "mine/rows"',)]),
    ],
)  # fmt: skip
def test_a_dataset_is_a_table_by_its_name_or_place(root: Path, query: str, expected: list[object]) -> None:
    """With its own columns alone, of a name with several variants that of the last run."""
    assert answer(root, query) == expected


def test_a_name_that_there_is_not_is_answered_with_the_near_one(root: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        answer(root, 'FROM "mine/rosw"')
    assert refusal.value.nearest == "mine/rows" and refusal.value.next == """quiver sql 'FROM "mine/rows"'"""
    with pytest.raises(ConfigError, match="not among its tables"):
        answer(root, 'FROM "mine"')
    with pytest.raises(ConfigError, match="not among its tables"):
        answer(root, f"FROM '{root}/mine/rows-00000001/part-00000.parquet'")


def test_names_that_differ_in_case_are_not_taken_for_one_another(root: Path, make: Maker) -> None:
    make("Mine/rows-00000001", MEASURED, measured("xyz", 5))
    assert answer(root, """SELECT count(*) FROM "Mine/rows" """) == [(3,)]
    with pytest.raises(ConfigError, match="two datasets"):
        answer(root, """FROM "Mine/rows" UNION ALL FROM "mine/rows" """)


def test_a_dataset_that_is_not_what_its_manifest_says_is_refused_by_name(root: Path) -> None:
    next(Path(root, "mine/rows-00000001").glob("part-*")).unlink()
    with pytest.raises(QuiverError, match="mine/rows-00000001 is not what its manifest says"):
        answer(root, 'FROM "mine/rows-00000001"')
    assert answer(root, 'SELECT count(*) FROM "mine/rows"') == [(4,)]


def test_a_connection_has_the_datasets_that_it_was_asked_for(root: Path, make: Maker) -> None:
    """By the words that name them, or those of a folder by their names; of variants that of the last run."""
    make("mine/policy-00000001/x-00000001", MEASURED, measured("q", 6))
    with connect(root, "mine/rows-00000001", str(root / "select")) as db:
        assert db.sql('SELECT count(*) FROM "mine/rows-00000001"').fetchall() == [(2,)]
        assert db.sql(f'FROM "{root}/select"').fetchall() == [("a", 4, 1)]
        assert db.sql("SELECT count(*) FROM samples").fetchall() == [(3,)]
        with pytest.raises(duckdb.CatalogException):
            db.sql('FROM "mine/rows"')
    with connect(root, "mine") as db:
        assert db.sql('SELECT count(*) FROM "mine/rows"').fetchall() == [(4,)]
        assert db.sql('SELECT sample_id FROM "mine/policy-00000001/x"').fetchall() == [("q",)]
    with pytest.raises(ConfigError) as refusal:
        connect(root, "mine/rosw")
    assert refusal.value.slug == "unknown-name" and refusal.value.nearest == "mine/rows"


@pytest.mark.parametrize(
    ("query", "next_"),
    [
        ("DESCRIBE rejected", """SELECT "column", meaning FROM columns WHERE view = '"'"'rejected'"'"'"""),
        ("SUMMARIZE everything.samples", """WHERE view = '"'"'samples'"'"'"""),
        ('DESCRIBE "mine/rows"', "quiver show mine/rows"),
        ("SELECT nothing_like_it FROM rejected", """WHERE view = '"'"'rejected'"'"'"""),
        ("SHOW TABLES", "SELECT DISTINCT view FROM columns"),
    ],
)
def test_who_asks_for_columns_is_shown_the_way(root: Path, query: str, next_: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        answer(root, query)
    assert next_ in refusal.value.next
