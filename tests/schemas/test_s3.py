"""The same protocol on S3, against an in-process server on loopback: conditional PUTs instead of links and
locks.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from schemas.dataset import Attempt, Dataset
from schemas.errors import ConfigError, ConflictError, IntegrityError, QuiverError, StorageError
from schemas.store import objects
from schemas.store.commit import sweep
from schemas.store.owner import Owner, _started
from tests.faults.faultfs import faulty_fs
from tests.faults.forked import forked, start, wait
from tests.faults.writers import ROWS, write, write_and_raise
from tests.tail import late

pytestmark = pytest.mark.s3


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture(autouse=True)
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"quiver-{os.urandom(6).hex()}"
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir(name)
    return name


def keys(bucket: str) -> list[str]:
    import s3fs

    return sorted(s3fs.S3FileSystem(use_listings_cache=False).find(bucket))


def test_a_dataset_is_the_same_there_as_here(bucket: str, tmp_path: object) -> None:
    url = f"s3://{bucket}/a b/d"
    assert write(url) == write(f"{tmp_path}/d")
    dataset = Dataset.open(url)
    dataset.check()
    assert dataset.read().num_rows == 120
    assert [table.num_rows for table in dataset.batches(0, 30)] == [30, 10]
    names = [f"part-{i:05d}.parquet" for i in range(3)]
    wanted = ["_manifest.json", *names, "rejected/part-00000.parquet"]
    assert keys(bucket) == [f"{bucket}/a b/d/{name}" for name in wanted]


def test_no_object_appears_when_a_writer_raises(bucket: str) -> None:
    url = f"s3://{bucket}/d"
    with pytest.raises(ZeroDivisionError):
        write_and_raise(url)
    assert keys(bucket) == []


def after(url: str, calm: str) -> None:
    """The next start of the same task, then the checks."""
    if Dataset.exists(url):
        sweep(url)
    else:
        write(url)
    dataset = Dataset.open(url)
    dataset.check()
    assert dataset.content_digest == calm
    left = [key for key in keys(url) if "/_attempt-" in key or "_claim" in key]
    assert not left, left


@pytest.mark.parametrize(
    ("kind", "first"),
    [("EIO", 1), ("lost", 2), *(late("EIO", first) for first in (7, 13, 19)), *(late("lost", n) for n in (8, 14, 20))],
)
def test_any_request_of_a_run_may_fail(kind: str, first: int, bucket: str) -> None:
    calm = write(f"s3://{bucket}/calm")
    with faulty_fs(kind, 0) as fault:
        write(f"s3://{bucket}/counted")
    points = range(first, fault.counted + 1, 24)
    for n in points:
        url = f"s3://{bucket}/{n}"
        with faulty_fs(kind, n), contextlib.suppress(StorageError):
            write(url)
        after(url, calm)
    print(f"s3 {kind}: {len(points)} of {fault.counted} requests failed")


@pytest.mark.parametrize("first", [3, late(13)])
def test_any_request_of_a_run_may_be_its_last(first: int, bucket: str) -> None:
    calm = write(f"s3://{bucket}/calm")
    with faulty_fs("kill", 0) as fault:
        write(f"s3://{bucket}/counted")
    points = range(first, fault.counted + 1, 20)
    for n in points:
        url = f"s3://{bucket}/{n}"

        def killed(n: int = n, url: str = url) -> None:
            with faulty_fs("kill", n):
                write(url)

        assert forked(killed).code == -9
        after(url, calm)
    print(f"s3 kill: {len(points)} of {fault.counted} requests")


def test_of_two_racing_runs_one_manifest_stands(bucket: str) -> None:
    same, differ = f"s3://{bucket}/same", f"s3://{bucket}/differ"
    ended = [wait(child) for child in [start(lambda: write(same)) for _ in range(2)]]
    assert [end.code for end in ended] == [0, 0], ended
    Dataset.open(same).check()
    ended = [wait(child) for child in [start(lambda salt=salt: write(differ, salt)) for salt in range(2)]]
    assert sorted(end.code for end in ended) == [0, 15], ended
    Dataset.open(differ).check()
    assert Dataset.open(differ).content_digest in [end.result for end in ended if end.code == 0]


def test_a_claim_of_a_dead_process_is_taken_over(bucket: str) -> None:
    import s3fs

    url = f"s3://{bucket}/d"
    mine = json.loads(Owner.mine().to_bytes())
    dead = json.dumps({**mine, "started": "1"}).encode()
    s3fs.S3FileSystem().pipe_file(f"{bucket}/d/_claim.json", dead)
    assert write(url)
    assert not [key for key in keys(bucket) if "_claim" in key]


def test_a_claim_of_a_live_process_is_waited_for(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setattr(objects, "WAIT_SECONDS", 0.2)
    other = subprocess.Popen(["sleep", "60"])
    owner = replace(Owner.mine(), pid=other.pid, started=_started(other.pid))
    s3fs.S3FileSystem().pipe_file(f"{bucket}/d/_claim.json", owner.to_bytes())
    with pytest.raises(ConflictError) as caught:
        write(f"s3://{bucket}/d")
    assert caught.value.code == 15
    other.kill()
    other.wait()
    assert write(f"s3://{bucket}/d")


def test_a_store_that_lets_the_second_writer_win_is_refused_before_work(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    real = s3fs.S3FileSystem.pipe_file

    def lying(self: object, path: str, data: bytes, **options: object) -> object:
        options.pop("IfNoneMatch", None)
        return real(self, path, data, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "pipe_file", lying)
    with pytest.raises(ConfigError) as caught:
        Attempt.begin(f"s3://{bucket}/d", ROWS)
    assert caught.value.slug == "store-lacks-put-if-absent"
    monkeypatch.undo()


def test_damage_is_named(bucket: str) -> None:
    import s3fs

    url, fs = f"s3://{bucket}/d", s3fs.S3FileSystem()
    write(url)
    path = f"{bucket}/d/part-00001.parquet"
    data = bytearray(fs.cat_file(path))
    data[len(data) // 2] ^= 4
    fs.pipe_file(path, bytes(data))
    with pytest.raises(IntegrityError, match="part-00001") as caught:
        Dataset.open(url).read()
    assert caught.value.slug == "shard-hash"
    fs.rm_file(path)
    with pytest.raises(IntegrityError) as caught:
        Dataset.open(url).read()
    assert caught.value.slug == "shard-missing"


def test_a_missing_bucket_or_server_is_a_storage_error(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(QuiverError) as caught:
        write("s3://no-such-bucket-anywhere/d")
    assert caught.value.code in (11, 12)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        ended = forked(lambda: Dataset.open(f"s3://{bucket}/d").content_digest)
    assert ended.code == 12, ended
