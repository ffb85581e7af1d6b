"""S10: what the process that opens Parquet files answers is outside data, checked again by who asked."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.formats import parquet_child
from datakit.io import Parquet
from datakit.op import Context
from schemas.errors import DataError

WORKER = """
import os, sys, time
sys.stdin.readline()
data = open(PLACE, "rb").read()
while data:
    data = data[os.write(1, data):]
LAST
"""


def stream(*batches: pa.RecordBatch, metadata: dict[str, str] | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema.with_metadata(metadata)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


GOOD = pa.record_batch({"prompt": ["1+1?", "é?"], "response": ["2", "x"]})


def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: bytes, last: str = "") -> list[str]:
    """The responses of a file whose reader answers with these bytes."""
    path, place, worker = tmp_path / "a.parquet", tmp_path / "reply", tmp_path / "worker.py"
    pq.write_table(pa.table({"prompt": ["a"], "response": ["b"]}), path)
    place.write_bytes(reply)
    worker.write_text(WORKER.replace("PLACE", repr(str(place))).replace("LAST", last))
    monkeypatch.setitem(parquet_child.batches.__kwdefaults__, "worker", worker)
    parts = Parquet(files=(str(path),), format="completions").read(Context())
    return [text for part in parts for text in part.rows["response"].to_pylist()]


def test_what_is_agreed_is_taken_and_counts_that_are_none_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for others in ("[1]", "{", '{"x": "y"}', "\u00ff", "[" * 50_000):
        assert read(tmp_path, monkeypatch, stream(GOOD, metadata={"others": others})) == ["2", "x"]


WHOLE = stream(GOOD)
BAD = {
    "nothing": b"",
    "no stream": b"\xff" * 100,
    "a torn stream": WHOLE[: len(WHOLE) // 2],
    "a huge message": b"\xff\xff\xff\xff" + (1 << 30).to_bytes(4, "little") + b"x" * 64,
    "text that is no UTF-8": WHOLE.replace("é".encode(), b"\xff\xff"),
    "another column": stream(pa.record_batch({"question": ["a"]})),
    "more than its file could hold": stream(pa.record_batch({"prompt": ["x" * (1 << 20)] * 8, "response": ["y"] * 8})),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_has_a_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("FLOOR", "_OVERHEAD"):
        monkeypatch.setattr(parquet_child, bound, 1 << 20)
    began = time.monotonic()
    with pytest.raises(DataError) as fault:
        read(tmp_path, monkeypatch, BAD[name])
    assert fault.value.slug in ("broken-parquet", "missing-key", "schema"), fault.value
    if name == "more than its file could hold":
        assert fault.value.found == f"its reader answered what was not agreed: {name}"
        assert time.monotonic() - began < parquet_child._GRACE_SECONDS / 2


def test_a_reader_that_says_nothing_or_does_not_leave_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_child, "_SECONDS", 0.5)
    monkeypatch.setattr(parquet_child, "_GRACE_SECONDS", 0.5)
    for reply, last in ((WHOLE[:-8], "time.sleep(60)"), (WHOLE, "os.close(1); time.sleep(60)")):
        with pytest.raises(DataError, match="ended with -9"):
            read(tmp_path, monkeypatch, reply, last)


def test_the_real_reader_is_not_blamed_for_the_pipe_that_was_closed_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": ["x" * (1 << 20)] * 3, "response": ["y"] * 3}), path)
    monkeypatch.setattr(parquet_child, "RATIO", 1)
    monkeypatch.setattr(parquet_child, "FLOOR", 1 << 23)
    monkeypatch.setattr(parquet_child, "_OVERHEAD", 1 - (11 << 20))  # one MiB of a reply is let in
    began = time.monotonic()
    with pytest.raises(DataError) as fault:
        list(Parquet(files=(str(path),), format="completions").read(Context()))
    assert fault.value.found == "its reader answered what was not agreed: more than its file could hold"
    assert time.monotonic() - began < parquet_child._GRACE_SECONDS / 2
