"""The job that faults are injected into, and two that break the rules, which the oracle must catch."""

from __future__ import annotations

import hashlib
import os

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.dataset import Attempt, Dataset
from schemas.manifest import File, Manifest
from schemas.schema import Column, Schema
from schemas.store import local

ROWS = Schema(
    "rows",
    1,
    (Column("sample_id", pa.string(), "id"), Column("reward", pa.float64(), "a number", finite=True)),
    key=("sample_id",),
)
REJECTED = ROWS.adding(Column("reason", pa.string(), "why the row did not make it"))
SHARDS = 3


def rows(shard: int, count: int = 40, salt: int = 0) -> pa.Table:
    """Rows of one shard: a pure function of its index (and of `salt`, for a run that differs)."""
    ids = [f"s{shard}-{row}" for row in range(count)]
    return pa.table({"sample_id": ids, "reward": [(row * 7 + salt) % 11 / 8 for row in range(count)]})


def write(url: str, salt: int = 0, shards: int = SHARDS) -> str:
    """Three shards and one of rejected rows, by the rules; returns the digest."""
    with Attempt.begin(url, ROWS, REJECTED, rows_per_group=16) as attempt:
        files = []
        for shard in range(shards):
            with attempt.shard(shard) as writer:
                writer.write(rows(shard, salt=salt))
                files.append(writer.finish())
        with attempt.rejected_shard(0) as writer:
            out = rows(99, 3, salt)
            writer.write(out.append_column("reason", pa.array(["short"] * 3)))
            rejected = [writer.finish()]
        return attempt.commit(files, rejected, op={"name": "test.write", "version": 1}, seed=7).content_digest


def write_and_raise(url: str) -> None:
    """By the rules, and the code that makes the rows raises in the middle."""
    with Attempt.begin(url, ROWS) as attempt, attempt.shard(0) as writer:
        writer.write(rows(0))
        raise ZeroDivisionError


def write_in_place(url: str) -> str:
    """Broken: shards straight under their final names, and a shard that exists is taken for complete."""
    os.makedirs(url, exist_ok=True)
    for shard in range(SHARDS):
        path = f"{url}/part-{shard:05d}.parquet"
        if not os.path.exists(path):
            sink = pa.BufferOutputStream()
            pq.write_table(ROWS.check(rows(shard)), sink)
            _put(path, sink.getvalue().to_pybytes())
    return _manifest(url)


def write_unsynced(url: str) -> str:
    """Broken: moves whole files into place, but syncs nothing, so that a loss of power tears what a manifest
    names.
    """
    os.makedirs(url, exist_ok=True)
    for shard in range(SHARDS):
        sink = pa.BufferOutputStream()
        pq.write_table(ROWS.check(rows(shard)), sink)
        _put(f"{url}/new", sink.getvalue().to_pybytes())
        local.os.replace(f"{url}/new", f"{url}/part-{shard:05d}.parquet")
    return _manifest(url)


def _manifest(url: str) -> str:
    files = []
    for shard in range(SHARDS):
        name = f"part-{shard:05d}.parquet"
        with open(f"{url}/{name}", "rb") as file:
            data = file.read()
        files.append(File(name, 40, len(data), hashlib.sha256(data).hexdigest()))
    manifest = Manifest(schema=ROWS, files=tuple(files))
    store = local.LocalStore()
    store.put_if_absent(f"{url}/_manifest.json", manifest.to_bytes(), url)
    return Dataset.open(url).content_digest


def _put(path: str, data: bytes) -> None:
    number = local.os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    half = len(data) // 2
    local.os.write(number, data[:half])
    local.os.write(number, data[half:])
    local.os.close(number)
