"""Bits that were turned inside files of the same size: found by who asks for it, in the files that a query reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pytest

from datakit.catalog.intact import require_intact
from datakit.catalog.workspace import read_workspace
from datakit.sql import ask, connect
from schemas import SAMPLES
from schemas.errors import ConfigError, IntegrityError
from tests.datakit.catalog.workspaces import REWARDED, Maker, rewarded, samples
from tests.quiver.answers import answer


@pytest.fixture
def root(make: Maker) -> Path:
    """Samples, their rewards with a row that was set aside, and another run."""
    drawn = make("own/a/samples-00000001", SAMPLES, [samples(3), samples(2, 3)], op="generate.complete")
    aside = rewarded(samples(1, 5), [0.0])
    for name, value in (("reason", "below"), ("value", 0.0), ("threshold", "1")):
        aside = aside.append_column(name, pa.array([value]))
    make("own/a/rewards-00000001", REWARDED, rewarded(samples(3), [1.0, 2.0, 3.0]), drawn, op="label.reward",
         params={"column": "reward"}, rejected=aside)  # fmt: skip
    make("own/b/samples-00000002", SAMPLES, samples(3, 9), op="generate.complete")
    return make.root


def turn_a_bit(file: Path, at: int) -> None:
    """As a disk does it: size and times stay."""
    there, data = file.stat(), bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(there.st_atime_ns, there.st_mtime_ns))


def of_the_writer(file: Path) -> int:
    """A byte of a Parquet file that no reader looks at: of the writer's name."""
    return file.read_bytes().rindex(b"parquet-cpp")


def rows(root: Path, query: str, verify: Literal["full", "size"] = "full") -> list[tuple[object, ...]]:
    answer = pa.Table.from_batches([*ask(root, query, verify=verify)])
    return [tuple(row.values()) for row in answer.to_pylist()]


@pytest.mark.parametrize(("file", "reading"), [
    ("own/a/samples-00000001/part-00001.parquet", {"samples", "length", "drift", "own/a/samples"}),
    ("own/b/samples-00000002/part-00000.parquet", {"samples", "length", "drift"}),
    ("own/a/rewards-00000001/part-00000.parquet", {"rewards", "rejected", "length", "drift", "borderline"}),
    ("own/a/rewards-00000001/rejected/part-00000.parquet", {"rewards", "rejected", "length", "drift", "borderline"}),
])  # fmt: skip
def test_files_behind_the_tables_of_a_query_are_read_and_no_others(root: Path, file: str, reading: set[str]) -> None:
    workspace, query = read_workspace(str(root)), 'FROM "own/a/samples"'
    every = ["datasets", "own/a/samples"]
    every += [f"{schema}{one}" for schema in ("", "main.", "everything.") for one in ("samples", "rewards", "pairs")]
    every += ["rejected", "records", *(f"forensics.{one}" for one in ("length", "drift", "borderline"))]
    require_intact(workspace, query, every)
    turn_a_bit(root / file, of_the_writer(root / file))
    for table in every:
        if table.rpartition(".")[2] in reading:
            with pytest.raises(IntegrityError, match=f"{Path(file).name} is not what the manifest says") as fault:
                require_intact(workspace, query, [table])
            assert fault.value.slug == "shard-hash" and fault.value.code == 11
        else:
            require_intact(workspace, query, [table])


def test_a_query_that_verifies_fails_by_a_turned_bit(root: Path) -> None:
    query = """WITH few AS (SELECT s.sample_id FROM Main.Samples AS s, "own/b/samples" AS t) SELECT count(*) FROM few"""
    assert rows(root, query) == [(24,)]
    file = root / "own/b/samples-00000002/part-00000.parquet"
    turn_a_bit(file, of_the_writer(file))
    assert rows(root, query, "size") == [(24,)]
    with pytest.raises(IntegrityError, match=r"part-00000\.parquet is not what the manifest says"):
        rows(root, query)


@pytest.mark.parametrize("at", [4, 0.2, 0.5, 0.8, -9])
def test_wherever_the_bit_is(root: Path, at: float) -> None:
    file = root / "own/a/samples-00000001/part-00000.parquet"
    turn_a_bit(file, int(at * file.stat().st_size) if isinstance(at, float) else at)
    with pytest.raises(IntegrityError):
        require_intact(read_workspace(str(root)), "", ["samples"])


def test_the_command_has_the_flag(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sql", "SELECT count(*) AS n FROM samples", "--verify", "--csv", "--root", str(root)]
    assert answer(capsys, *words) == "n\n8\n"
    file = root / "own/a/samples-00000001/part-00000.parquet"
    turn_a_bit(file, file.stat().st_size // 2)
    with pytest.raises(IntegrityError):
        answer(capsys, *words)


def test_a_text_that_may_not_run_reads_no_file(root: Path) -> None:
    file = root / "own/a/samples-00000001/part-00000.parquet"
    turn_a_bit(file, of_the_writer(file))
    with pytest.raises(ConfigError):
        rows(root, "SELECT count(*) FROM samples, glob('*')")


def test_a_connection_that_verifies_fails_what_reaches_the_file_and_nothing_else(root: Path) -> None:
    file = root / "own/b/samples-00000002/part-00000.parquet"
    turn_a_bit(file, of_the_writer(file))
    with connect(root) as db:
        assert db.sql("SELECT count(*) FROM samples").fetchall() == [(8,)]
    with connect(root, "own/a/samples", "own/b/samples", verify="full") as db:
        assert db.sql("SELECT count(*) FROM rewards").fetchall() == [(3,)]
        assert db.sql('SELECT count(*) FROM "own/a/samples"').fetchall() == [(5,)]
        [damage] = db.sql("SELECT damage FROM datasets WHERE damage IS NOT NULL").fetchall()
        assert damage[0].startswith("part-00000.parquet has sha256 ")
        for query in ("SELECT count(*) FROM samples", 'FROM "own/b/samples"'):
            with pytest.raises(duckdb.Error, match="own/b/samples-00000002 is not what its manifest says"):
                db.sql(query).fetchall()
    with connect(root) as db:
        assert db.sql("SELECT count(damage) FROM datasets").fetchall() == [(0,)]
