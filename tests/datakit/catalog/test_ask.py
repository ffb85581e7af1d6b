"""SQL over a workspace: what it may not do, whoever asks, and that limits are kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from datakit.catalog.ask import answered, ask, workspace_process
from datakit.duck.child import SqlError, SqlProcess
from schemas import SAMPLES
from schemas.errors import ConfigError, QuiverError
from tests.datakit.catalog.workspaces import Maker, samples

PROBES = (
    "FROM read_text('/etc/hostname')",
    "FROM read_parquet('{outside}')",
    "FROM '{outside}'",
    "FROM read_csv('/etc/passwd')",
    "FROM glob('/*')",
    "COPY (SELECT 1) TO '{root}/written.csv'",
    "CREATE TABLE t AS SELECT 1",
    "DROP VIEW samples",
    "ATTACH '{outside}' AS other",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET memory_limit = '64GB'",
    "SELECT getenv('HOME')",
    "PRAGMA threads = 64",
    "SELECT current_setting('temp_directory')",
    "FROM query('SELECT 1')",
    "FROM samples; SELECT 1",
    "FROM read_blob('{root}/catalog.duckdb')",
    """FROM (WITH "{root}/x.parquet" AS (SELECT 1) FROM "{root}/x.parquet"), "{root}/x.parquet" """,
    """WITH "{root}/x.parquet" AS (FROM "{root}/x.parquet") FROM "{root}/x.parquet" """,
    "FROM (WITH sqlite_master AS (SELECT 1 AS n) FROM sqlite_master), sqlite_master",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make = Maker(tmp_path_factory.mktemp("asked") / "quiver-data")
    make("own/samples-00000001", SAMPLES, samples(3), op="generate.complete")
    duckdb.sql(f"COPY (SELECT 42 AS secret) TO '{make.root.parent / 'outside.parquet'}'")
    return make.root


@pytest.fixture(scope="module")
def process(root: Path) -> Iterator[SqlProcess]:
    with workspace_process(root, seconds=60) as process:
        yield process


def answer(process: SqlProcess, query: str) -> pa.Table:
    return pa.Table.from_batches(list(answered(process, query)))


def files(folder: Path) -> list[tuple[Path, int]]:
    return sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_a_question_is_answered(process: SqlProcess) -> None:
    asked = "WITH mine AS (SELECT * FROM everything.samples) SELECT sample_id FROM mine JOIN samples USING (sample_id)"
    assert sorted(answer(process, asked)["sample_id"].to_pylist()) == ["s0", "s1", "s2"]


@pytest.mark.parametrize("probe", PROBES)
def test_what_is_no_question_over_views_is_refused_before_it_runs(process: SqlProcess, root: Path, probe: str) -> None:
    before = files(root.parent)
    with pytest.raises(ConfigError) as refusal:
        answer(process, probe.format(root=root, outside=root.parent / "outside.parquet"))
    assert refusal.value.slug == "query"
    assert files(root.parent) == before
    assert answer(process, "SELECT count(*) AS n FROM samples")["n"].to_pylist() == [3]


def test_the_child_itself_reads_nothing_outside_the_workspace(root: Path, tmp_path: Path) -> None:
    """Were the check of the text passed by, or the catalog somebody else's."""
    outside = root.parent / "outside.parquet"
    foreign = tmp_path / "foreign.duckdb"
    with duckdb.connect(foreign) as db:
        db.execute(f"CREATE VIEW stolen AS FROM read_parquet('{outside}')")
    limits = {"memory": 512, "seconds": 60}
    with SqlProcess(**limits, catalog=str(foreign), readable=str(root)) as process:
        for probe in (
            "FROM read_text('/etc/hostname')",
            f"FROM read_parquet('{outside}')",
            f"FROM read_text('{root}/../outside.parquet')",
            "SELECT * FROM stolen",
        ):
            with pytest.raises(SqlError, match="Permission Error"):
                process.table(probe)
        with pytest.raises(SqlError, match="configuration"):
            process.table("SET memory_limit = '64GB'")


def test_a_link_that_leads_out_of_the_workspace_is_damage(make: Maker, tmp_path: Path) -> None:
    make("own/samples-00000001", SAMPLES, samples(3), op="generate.complete")
    place, [shard] = tmp_path / "outside.parquet", make.root.rglob("part-*.parquet")
    shard.rename(place)
    shard.symlink_to(place)
    with pytest.raises(QuiverError, match="no regular file"):
        list(ask(make.root, "FROM samples"))


@pytest.mark.parametrize(
    ("query", "seconds", "slugs"),
    [
        ("SELECT count(*) FROM range(100000000000) a, range(100000000000) b", 2, {"sql-timeout"}),
        ("SELECT len(list_resize([1], 3000000000)) FROM samples", 60, {"sql-memory", "sql-limit"}),
    ],
)
def test_limits_are_kept(root: Path, query: str, seconds: float, slugs: set[str]) -> None:
    with pytest.raises(QuiverError) as stopped:
        list(ask(root, query, seconds=seconds))
    assert stopped.value.slug in slugs


def test_a_name_that_there_is_not_is_answered_with_the_near_one(process: SqlProcess) -> None:
    with pytest.raises(ConfigError) as refusal:
        answer(process, "FROM sampels")
    assert (refusal.value.nearest, refusal.value.next) == ("samples", "quiver sql 'FROM samples'")
    with pytest.raises(ConfigError) as refusal:
        answer(process, "SELECT respnse FROM samples LIMIT 1")
    assert refusal.value.nearest == "response", refusal.value.what
    assert refusal.value.next == "quiver sql 'SELECT response FROM samples LIMIT 1'"
    assert "\\n" not in refusal.value.what and "LINE" not in refusal.value.what


def test_nothing_is_left_of_a_question(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert len(next(ask(root, "FROM samples"))) == 3
    assert list(tmp_path.iterdir()) == []
