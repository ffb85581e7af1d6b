"""datakit.duck.child: SQL of users under the kernel's limits, and the process that is used again."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.duck.child import SqlError, SqlProcess, shared
from datakit.filter.where import Where
from datakit.sql import Predicate, Query
from schemas import Column, Schema
from schemas.errors import ConfigError, DataError

ROWS = Schema("rows", 1, (Column("id", pa.string(), ""), Column("response", pa.string(), "")), key=("id",))
TEXTS = pa.table({"id": [str(i) for i in range(3000)], "response": ["x" * 100] * 3000})
HUGE = "length(repeat(response, 4000000)) > 3"
"""400 MB a row, 2048 rows at once: what DuckDB does not count."""


def peak() -> int:
    """Most resident bytes that any ended child of this process had."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10


def test_temporaries_of_scalar_functions_are_capped(put, tmp_path):
    before = peak()
    with pytest.raises(DataError, match=r"needs too much memory|broke a limit") as caught:
        apply(Where(predicate=HUGE), [put(TEXTS, (1,), ROWS)], str(tmp_path / "o"))
    assert caught.value.slug in ("sql-memory", "sql-limit")
    assert peak() <= max(before, 4 << 30)
    op = Query(tables=("rows",), query=f"SELECT id FROM rows WHERE {HUGE}")
    with pytest.raises(DataError) as caught:
        apply(op, [put(TEXTS, (2,), ROWS)], str(tmp_path / "p"))
    assert caught.value.slug in ("sql-memory", "sql-limit")
    assert peak() <= max(before, 7 << 30)
    assert Predicate.of("length(response) = 100", ROWS).values(TEXTS).to_pylist() == [True] * 3000, "a new child"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("length(lpad(response, 2000000000, 'x')) > 1", marks=pytest.mark.slow),
        "len(list_resize([1], 300000000)) > 1",
    ],
)
def test_one_row_is_capped_too_and_is_no_null(text):
    with pytest.raises(DataError, match=r"needs too much memory|broke a limit"):
        Predicate.of(text, ROWS).values(TEXTS.slice(0, 1))


SLOW = "SELECT max(levenshtein(repeat(a.x, 30000), repeat('ba', 30000))) FROM (SELECT 'ab' AS x FROM range(99)) a"
"""A scalar function that is at one row for minutes, which `interrupt` cannot stop."""


@pytest.mark.parametrize("sql", [SLOW, "SELECT count(*) FROM range(100000000000) a WHERE a.range % 7 = 3"])
def test_a_statement_is_killed_when_its_time_is_over(sql):
    with SqlProcess(memory=64, seconds=1.0) as process:
        started = time.monotonic()
        with pytest.raises(DataError, match="ran too long") as caught:
            process.table(sql)
        assert time.monotonic() - started < 20
        assert caught.value.slug == "sql-timeout"
        assert process.table("SELECT 1 AS a")["a"].to_pylist() == [1]


def test_the_time_that_the_reader_of_rows_takes_is_not_counted():
    with SqlProcess(memory=64, seconds=2.0) as process:
        rows = 0
        for batch in process.ask("SELECT * FROM range(70000)"):
            rows += batch.num_rows
            time.sleep(0.3)
        assert rows == 70_000


def test_a_result_streams_in_bounded_batches():
    with SqlProcess(memory=64, seconds=60) as process:
        batches = process.ask("SELECT range AS n, repeat('x', 100000) AS text FROM range(5000)")
        sizes = [(batch.num_rows, batch.nbytes) for batch in batches]
    assert sum(rows for rows, _ in sizes) == 5000
    assert max(size for _, size in sizes) < 128 << 20


def test_what_does_not_fit_spills():
    rows = pa.table({"text": [f"{i:0100d}" for i in range(200_000)]})
    with SqlProcess(memory=32, seconds=60) as process:
        process.load("rows", rows.schema, rows.to_batches(10_000))
        counts = process.table("SELECT count(*) AS n, count(DISTINCT text) AS m FROM rows")
        assert counts.to_pydict() == {"n": [200_000], "m": [200_000]}
        assert len(list(Path(tempfile.gettempdir()).glob("quiver-sql-*"))) >= 1
        spill = process._spill.path
    assert not os.path.exists(spill)


def test_a_fault_leaves_the_process_in_step():
    with SqlProcess(memory=64, seconds=60) as process:
        for _ in range(3):
            with pytest.raises(SqlError, match="Could not convert"):
                process.table(
                    "SELECT CAST(text AS INT) FROM rows", {"rows": pa.table({"text": ["1"] * 20_000 + ["x"]})}
                )
            assert process.table("SELECT sum(n) AS s FROM rows", {"rows": pa.table({"n": [1, 2]})})[
                "s"
            ].to_pylist() == [3]
        child = process._child
        for batch in process.ask("SELECT * FROM range(100000)"):
            assert batch is not None
            break
        assert process.table("SELECT 2 AS a")["a"].to_pylist() == [2], (
            "an unread result ends the child, not the session"
        )
        assert process._child is not child


def test_one_child_serves_all_chunks():
    predicate = Predicate.of("length(response) > 3", ROWS)
    with shared() as process:
        before = process._child
    for _ in range(5):
        predicate.values(TEXTS.slice(0, 10))
    with shared() as process:
        assert process._child is before is not None


def test_the_child_goes_when_its_parent_is_killed():
    code = f"""
    import sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r})
    from datakit.duck.child import SqlProcess
    process = SqlProcess(memory=64, seconds=600)
    process.table("SELECT 1")
    print(process._child.pid, process._spill.path, flush=True)
    process.table({SLOW!r})
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, spill = parent.stdout.readline().split()
        assert os.path.isdir(spill)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}/exe") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}/exe")
    assert not os.path.exists(spill)


def test_an_undecodable_byte_is_a_fault_of_the_text():
    byte = os.fsdecode(b"response = '\xff'")
    with pytest.raises(ConfigError):
        Predicate.of(byte, ROWS)
    with pytest.raises(ConfigError):
        Query(tables=("rows",), query=f"SELECT * FROM rows WHERE {byte}").gives(ROWS)


@pytest.mark.parametrize("text", ["(" * 4000 + "true" + ")" * 4000, "NOT " * 2000 + "true"])
def test_deep_nesting_is_a_fault_of_the_text(text):
    with pytest.raises(ConfigError):
        Predicate.of(text, ROWS)


def test_rows_in_an_order_that_nobody_gave_are_the_same_in_every_run(put, tmp_path):
    rng = np.random.default_rng(3)
    rows = pa.table({"id": [f"{i}" for i in range(50_000)], "response": rng.integers(0, 999, 50_000).astype(str)})
    given = put(rows, (1, 2, 3), ROWS)
    op = Query(tables=("rows",), query="SELECT response, first(id) AS id, string_agg(id, '') AS all_ids, count(*) AS n "
               "FROM rows GROUP BY response", kind="groups")  # fmt: skip
    outs = [apply(op, [given], str(tmp_path / name)) for name in "ab"]
    assert outs[0].content_digest == outs[1].content_digest
    first: dict[str, str] = {}
    for row in given.read().to_pylist():
        first.setdefault(row["response"], row["id"])
    assert dict(zip(*outs[0].read().select(["response", "id"]).to_pydict().values(), strict=True)) == first


def test_a_fault_of_the_rows_that_try_does_not_catch_has_a_name():
    """DuckDB casts the whole column for `IN`, outside of TRY; met by the fuzzer."""
    with pytest.raises(DataError) as caught:
        Predicate.of("response IN (1, 2)", ROWS).values(TEXTS)
    assert caught.value.slug == "predicate-failed"
