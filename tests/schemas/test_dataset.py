"""Datasets as they are meant to be used: written, read, queried, traced; and the error when one is
not right.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import fsspec
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import SAMPLES, Column, Schema
from schemas.dataset import Attempt, Dataset
from schemas.errors import ConflictError, DataError, IntegrityError, StorageError
from schemas.manifest import File, Manifest
from schemas.store import commit
from tests.faults.checks import files_below
from tests.faults.faultfs import faulty_fs
from tests.faults.writers import REJECTED, ROWS, rows, write, write_and_raise


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "it's a b#%41*?[é]😀" / "d")
        return
    yield f"memory://{tmp_path.name}/d"
    fs = fsspec.filesystem("memory")
    if fs.exists(f"/{tmp_path.name}"):
        fs.rm(f"/{tmp_path.name}", recursive=True)


def commit_one(url: str, table: pa.Table, rows_per_group: int = 16, pieces: int = 1, **fields: object) -> Dataset:
    attempt = Attempt.begin(url, ROWS, rows_per_group=rows_per_group)
    writer = attempt.shard(0)
    step = -(-table.num_rows // pieces) or 1
    for start in range(0, table.num_rows, step):
        writer.write(table.slice(start, step))
    return attempt.commit([writer.finish()], **fields)  # type: ignore[arg-type]


def test_what_is_written_is_read(url: str) -> None:
    digest = write(url)
    dataset = Dataset.open(url)
    assert Dataset.exists(url)
    assert dataset.content_digest == digest
    assert dataset.schema == ROWS
    assert dataset.num_rows == 120
    assert dataset.read().equals(pa.concat_tables([ROWS.check(rows(shard)) for shard in range(3)]))
    assert dataset.read().schema.equals(ROWS.arrow, check_metadata=True)
    assert dataset.read(["reward"]).column_names == ["reward"]
    assert [table.num_rows for table in dataset.batches(1, 7)] == [7, 7, 7, 7, 7, 5]
    assert [table.num_rows for table in dataset.batches(1, 100)] == [40]
    assert pa.concat_tables(dataset.batches(1, 9, ["reward"])).equals(dataset.read_shard(1, ["reward"]))
    rejected = dataset.read_rejected()
    assert rejected is not None
    assert rejected["reason"].to_pylist() == ["short"] * 3
    assert dataset.stats["rejected"] == {"short": 3}
    assert dataset.stats["columns"]["reward"]["count"] == 120
    assert pickle.loads(pickle.dumps(dataset)) == dataset
    assert hash(pickle.loads(pickle.dumps(dataset))) == hash(dataset)


@pytest.mark.parametrize("pieces", [1, 3, 50])
def test_bytes_depend_on_the_rows_alone(pieces: int, tmp_path: Path) -> None:
    whole = rows(0, 50)
    chunked = pa.concat_tables([whole.slice(row, 1) for row in range(50)])
    one = commit_one(str(tmp_path / "a"), whole)
    other = commit_one(str(tmp_path / "b"), chunked, pieces=pieces)
    assert one.content_digest == other.content_digest
    assert (tmp_path / "a/part-00000.parquet").read_bytes() == (tmp_path / "b/part-00000.parquet").read_bytes()
    groups = pq.ParquetFile(tmp_path / "a/part-00000.parquet").metadata
    assert [groups.row_group(index).num_rows for index in range(groups.num_row_groups)] == [16, 16, 16, 2]


def test_place_time_and_machine_are_not_in_the_digest(tmp_path: Path) -> None:
    parent = commit_one(str(tmp_path / "p"), rows(0))
    moved = commit_one(str(tmp_path / "q"), rows(0), runtime_info={"host": "x"})
    one = commit_one(str(tmp_path / "a"), rows(1), parents=[parent.as_parent("rows")])
    other = commit_one(str(tmp_path / "b"), rows(1), parents=[moved.as_parent("rows")], runtime_info={"seconds": 1.5})
    assert one.content_digest == other.content_digest
    assert Dataset.open(other.url).manifest.runtime_info == {"seconds": 1.5}


def test_empty_shards_and_empty_datasets_are_datasets(url: str) -> None:
    dataset = commit_one(url, rows(0, 0))
    assert dataset.read().num_rows == 0
    assert list(dataset.batches(0, 5)) == []
    none = Attempt.begin(f"{url}2", ROWS, REJECTED).commit([])
    assert Dataset.open(f"{url}2").read().schema == ROWS.arrow
    assert none.num_rows == 0
    rejected = none.read_rejected()
    assert rejected is not None
    assert rejected.num_rows == 0


def test_nested_columns_come_back_as_declared(tmp_path: Path) -> None:
    attempt = Attempt.begin(str(tmp_path / "d"), SAMPLES, rows_per_group=2)
    writer = attempt.shard(0)
    writer.write(SAMPLES.example(5))
    dataset = attempt.commit([writer.finish()])
    assert Dataset.open(dataset.url).read().equals(SAMPLES.example(5))
    assert dataset.stats["columns"]["response_ids.length"]["mean"] == 3


def test_duckdb_and_polars_read_exactly_the_rows(tmp_path: Path) -> None:
    url = str(tmp_path / "d")
    write(url)
    counts = duckdb.sql(f"SELECT count(*), count(DISTINCT sample_id) FROM '{url}/*.parquet'").fetchall()
    assert counts == [(120, 120)]
    reasons = duckdb.sql(f"SELECT reason, count(*) FROM '{url}/rejected/*.parquet' GROUP BY ALL").fetchall()
    assert reasons == [("short", 3)]
    assert polars.scan_parquet(f"{url}/*.parquet").select(polars.len()).collect().item() == 120


def test_a_second_commit_of_the_same_is_done_already_and_of_another_is_a_conflict(url: str) -> None:
    first = write(url)
    assert write(url) == first
    with pytest.raises(ConflictError) as caught:
        write(url, salt=1)
    assert caught.value.code == 15
    assert caught.value.expected
    assert caught.value.next
    assert Dataset.open(url).content_digest == first
    Dataset.open(url).check()
    assert [name for name in Dataset.open(url).paths() if "_attempt" in name] == []


def test_an_exception_publishes_nothing(tmp_path: Path) -> None:
    url = str(tmp_path / "d")
    with pytest.raises(ZeroDivisionError):
        write_and_raise(url)
    gc.collect()
    assert files_below(url) == set()
    assert not Dataset.exists(url)


def test_rows_that_break_the_schema_are_refused_when_written(url: str) -> None:
    with Attempt.begin(url, ROWS) as attempt, attempt.shard(0) as writer:
        with pytest.raises(DataError):
            writer.write(rows(0).drop_columns(["reward"]))
        with pytest.raises(DataError):
            writer.write(rows(0, 1).set_column(1, "reward", pa.array([float("nan")])))


def test_a_worker_whose_attempt_was_swept_is_reported(tmp_path: Path) -> None:
    attempt = Attempt.begin(str(tmp_path / "d"), ROWS)
    writer = attempt.shard(0)
    file = writer.finish()
    attempt.discard()
    attempt.discard()
    with pytest.raises(StorageError) as caught:
        attempt.shard(1)
    assert caught.value.slug == "attempt-gone"
    with pytest.raises(StorageError) as caught:
        attempt.commit([file])
    assert caught.value.slug == "attempt-damaged"
    assert files_below(attempt.url) == set()


def test_another_host_is_given_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "d")
    monkeypatch.setattr("schemas.store.owner.socket.gethostname", lambda: "elsewhere")
    far = Attempt.begin(url, ROWS)
    monkeypatch.undo()
    owner = f"{url}/{far.name}/_owner.json"
    Attempt.begin(url, ROWS).discard()
    assert os.path.exists(owner)
    old = os.stat(owner).st_mtime - commit.LEASE_SECONDS - 10
    os.utime(owner, (old, old))
    Attempt.begin(url, ROWS).discard()
    assert not os.path.exists(f"{url}/{far.name}")


def test_a_sweep_gives_another_host_its_lease_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "d")
    monkeypatch.setattr("schemas.store.owner.socket.gethostname", lambda: "elsewhere")
    far = Attempt.begin(url, ROWS)
    monkeypatch.undo()
    assert commit.sweep(url) == []
    owner = f"{url}/{far.name}/_owner.json"
    old = os.stat(owner).st_mtime - 100
    os.utime(owner, (old, old))
    assert commit.sweep(url, lease=1000) == []
    assert commit.sweep(url, lease=50) == [far.name]
    assert os.listdir(url) == []


def test_a_live_attempt_of_this_host_is_never_swept(tmp_path: Path) -> None:
    url = str(tmp_path / "d")
    live = Attempt.begin(url, ROWS)
    file = live.shard(0).finish()
    assert write(url)
    assert commit.sweep(url) == []
    with pytest.raises(ConflictError):
        live.commit([file])


@pytest.mark.parametrize(
    ("damage", "slug"),
    [
        (lambda path: path.unlink(), "shard-missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "shard-truncated"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "shard-size"),
        (lambda path: path.write_bytes(b"\0" * path.stat().st_size), "shard-hash"),
        (
            lambda path: (path.rename(path.with_suffix(".x")), path.symlink_to(path.with_suffix(".x"))),
            "not-a-file",
        ),
        (lambda path: (path.unlink(), path.mkdir()), "not-a-file"),
    ],
)
def test_damage_is_named(damage: object, slug: str, tmp_path: Path) -> None:
    url = str(tmp_path / "d")
    write(url)
    damage(tmp_path / "d" / "part-00001.parquet")  # type: ignore[operator]
    with pytest.raises(IntegrityError) as caught:
        Dataset.open(url).read()
    assert caught.value.slug == slug
    assert caught.value.code == 11
    assert "part-00001.parquet" in caught.value.what
    assert caught.value.kept
    assert caught.value.next


def test_a_shard_replaced_after_it_was_verified_is_noticed(tmp_path: Path) -> None:
    url = str(tmp_path / "d")
    write(url)
    dataset, path = Dataset.open(url), tmp_path / "d" / "part-00000.parquet"
    dataset.read()
    shutil.copy(tmp_path / "d" / "part-00001.parquet", path)
    os.utime(path, (1, 1))
    with pytest.raises(IntegrityError):
        dataset.read()


def test_size_and_off_trust_more(tmp_path: Path) -> None:
    url = str(tmp_path / "d")
    write(url)
    path = tmp_path / "d" / "part-00000.parquet"
    data = bytearray(path.read_bytes())
    at = data.index(b"PAR1", 4) if b"PAR1" in data[4:] else len(data) - 4
    assert at == len(data) - 4
    data[at - 30] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError):
        Dataset.open(url).read()
    path.write_bytes(data[:-1])
    with pytest.raises(IntegrityError, match="part-00000"):
        Dataset.open(url, "size").read()


def test_a_missing_dataset_and_a_checkpoint_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError) as caught:
        Dataset.open(str(tmp_path / "none"))
    assert caught.value.slug == "dataset-missing"
    url = str(tmp_path / "c")
    name = commit.begin_attempt(url, ("weights",))
    (tmp_path / "c" / name / "weights" / ".metadata").write_bytes(b"m")
    (tmp_path / "c" / name / "weights" / "__0_0.distcp").write_bytes(b"w" * 1000)
    files = commit.hash_files(url, name)
    assert files[0] == File("weights/.metadata", 0, 1, files[0].sha256)
    published = commit.publish_folder(url, name, Manifest(kind="checkpoint", files=files, facts={"step": 3}))
    assert commit.read_manifest(url) == published
    assert files_below(url) == {"_manifest.json", "weights", "weights/.metadata", "weights/__0_0.distcp"}
    with pytest.raises(IntegrityError) as caught:
        Dataset.open(url)
    assert caught.value.slug == "not-a-dataset"


def test_stray_files_change_nothing(tmp_path: Path) -> None:
    url = str(tmp_path / "d")
    digest = write(url)
    (tmp_path / "d" / "notes.txt").write_text("mine")
    (tmp_path / "d" / "_attempt-x").write_text("a file")
    assert Dataset.open(url).read().num_rows == 120
    assert write(url) == digest
    assert (tmp_path / "d" / "notes.txt").read_text() == "mine"


def test_sweeping_does_not_follow_links(tmp_path: Path) -> None:
    url = str(tmp_path / "d")
    write(url)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "d" / f"_attempt-{'0' * 16}").symlink_to(tmp_path / "mine")
    commit.sweep(url)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    assert not [name for name in os.listdir(url) if name.startswith("_attempt")]


def test_a_torn_manifest_stops_the_next_run_before_work(tmp_path: Path) -> None:
    url = str(tmp_path / "d")
    write(url)
    path = tmp_path / "d" / "_manifest.json"
    path.write_bytes(path.read_bytes()[:100])
    assert not Dataset.exists(url)
    for call in (lambda: Dataset.open(url), lambda: Attempt.begin(url, ROWS)):
        with pytest.raises(IntegrityError) as caught:
            call()
        assert caught.value.slug == "manifest-torn"
    assert [name for name in os.listdir(url) if name.startswith("_attempt")] == []


def test_lineage_names_every_ancestor(tmp_path: Path) -> None:
    first = commit_one(str(tmp_path / "a"), rows(0), op={"name": "io.read"})
    second = commit_one(str(tmp_path / "b"), rows(1), op={"name": "label.x"}, parents=[first.as_parent("rows")])
    third = commit_one(str(tmp_path / "c"), rows(2), op={"name": "blend"}, parents=[
        first.as_parent("one"), second.as_parent("two"),
    ])  # fmt: skip
    lines = third.lineage().splitlines()
    assert [line.split("[")[0].split()[0] for line in lines] == ["blend", "one:", "two:", "rows:"]
    assert "40 rows, 1 file" in lines[0]
    shutil.rmtree(first.url)
    assert third.lineage().count("(gone)") == 2


def test_every_call_of_a_memory_run_may_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    root = f"memory://{tmp_path.name}"
    calm = write(f"{root}/calm")
    with faulty_fs("EIO", 0) as fault:
        write(f"{root}/counted")
    assert fault.counted > 30
    for kind in ("EIO", "ENOSPC", "lost"):
        for n in range(1, fault.counted + 1):
            url = f"{root}/{kind}-{n}"
            with contextlib.suppress(StorageError), faulty_fs(kind, n):
                write(url)
            if Dataset.exists(url):
                Dataset.open(url).check()
            commit.sweep(url)
            assert write(url) == calm, (kind, n)
            Dataset.open(url).check()
            fsspec.filesystem("memory").rm(f"/{tmp_path.name}/{kind}-{n}", recursive=True)
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


def test_a_few_rows_of_a_tiny_file_take_little_memory(tmp_path: Path) -> None:
    """4,096 rows of one text of 100 kB are a few kB on disk and 0.4 GB decoded; ten rows of them are read in slices."""
    schema = Schema("long", 1, (Column("text", pa.string(), "a long text"),))
    attempt = Attempt.begin(str(tmp_path / "long"), schema)
    with attempt.shard(0) as writer:
        for _ in range(4):
            writer.write(pa.table({"text": pa.repeat("x" * 100_000, 1024)}))
        file = writer.finish()
    made = attempt.commit([file])
    assert file.bytes < 100_000
    code = (
        "import sys, pyarrow as pa; from schemas.dataset import Dataset; "
        "print(next(Dataset.open(sys.argv[1]).batches(0, 10)).num_rows, pa.default_memory_pool().max_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code, made.url], capture_output=True, text=True, check=True)
    rows, most = map(int, done.stdout.split())
    assert rows == 10 and most < 200 << 20, most
