"""S10: what the SQL process answers is outside data: a mutated reply has a name, ends the process, and no more."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from datakit.duck import child
from datakit.duck.child import SqlError, SqlProcess
from schemas.errors import QuiverError

WORKER = """
import os, sys
os.write(1, b"{}" + bytes([10]))
sys.stdin.buffer.readline()
sys.stdin.buffer.readline()
os.write(1, open(PLACE, "rb").read())
"""
"""Answers its first request with the bytes of a file, and leaves."""


def reply(batch: pa.RecordBatch, last: bool = True) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    body = sink.getvalue().to_pybytes()
    return json.dumps({"bytes": len(body), "last": last}).encode() + b"\n" + body


NUMBERS = pa.record_batch({"n": pa.array([1, 2, 3]), "text": ["a", "é", None]})
WHOLE = reply(NUMBERS)
BAD = {
    "no JSON": b"\xff\n",
    "no object": b"[1]\n",
    "deep": b"[" * 100_000 + b"\n",
    "no size": b"{}\n",
    "a text as size": b'{"bytes": "9"}\n',
    "a negative size": b'{"bytes": -9}\n',
    "more than it sends": b'{"bytes": 900000}\nabc',
    "no stream": b'{"bytes": 3}\nabc',
    "an unknown fault": b'{"fault": "x"}\n',
    "a fault that is a list": b'{"fault": [1]}\n',
    "another schema": reply(NUMBERS, last=False) + reply(pa.record_batch({"n": ["x"]})),
    "text that is no UTF-8": WHOLE.replace("é".encode(), b"\xff\xff"),
}


@pytest.fixture
def answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], pa.Table]:
    """The table that comes of a process which answers a query with these bytes."""
    place = tmp_path / "reply"
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER.replace("PLACE", repr(str(place))))

    def answer(data: bytes) -> pa.Table:
        place.write_bytes(data)
        with monkeypatch.context() as context, SqlProcess(memory=64, seconds=30) as process:
            context.setattr(child, "_WORKER", worker)
            try:
                return process.table("SELECT 1")
            finally:
                assert process._child is None or process._child.poll() in (None, 0)

    return answer


@pytest.mark.parametrize("name", BAD)
def test_a_reply_that_is_not_as_agreed_has_a_name(name: str, answered: Callable[[bytes], pa.Table]) -> None:
    with pytest.raises(QuiverError) as fault:
        answered(BAD[name])
    assert fault.value.slug == "sql-limit"


def test_a_mutated_reply_has_a_name_and_the_next_statement_runs(answered: Callable[[bytes], pa.Table]) -> None:
    assert answered(WHOLE).equals(pa.Table.from_batches([NUMBERS]))
    rng = random.Random(7)
    refused = 0
    for _ in range(30):
        data = bytearray(WHOLE)
        for _ in range(rng.choice((1, 1, 4))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            answered(bytes(data)).validate(full=True)
        except (QuiverError, SqlError):
            refused += 1
    assert refused > 3
    with SqlProcess(memory=64, seconds=30) as process:
        assert process.table("SELECT 1 AS a")["a"].to_pylist() == [1]


def test_syntax_trees_that_are_not_as_agreed_have_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, worker = tmp_path / "reply", tmp_path / "worker.py"
    worker.write_text(WORKER.replace("PLACE", repr(str(place))))
    monkeypatch.setattr(child, "_WORKER", worker)
    for trees in (None, [], ["{}", "{}"], ["{"], [3], ["[1]"]):
        place.write_text(json.dumps({"trees": trees}) + "\n")
        with SqlProcess(memory=64, seconds=30) as process, pytest.raises(QuiverError, match="sql-limit"):
            process.parse("SELECT 1")
