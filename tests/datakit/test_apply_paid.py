"""Paid work: what was answered before a crash is never asked again, and the bytes are those of a calm run."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from datakit.apply import apply
from datakit.clients import Sampling
from datakit.generate import Complete
from datakit.label import Reward
from datakit.op import Result
from datakit.run.chunks import Chunks
from schemas.errors import DataError, WorkerError
from tests.datakit.fakes import generator, prompts, responses, scorer

OP = Complete(sampling=Sampling(samples_per_prompt=2), rows_per_chunk=3)


def asked(log: Path) -> Counter[str]:
    return Counter(log.read_text().split()) if log.exists() else Counter()


def progress(out: Path) -> list[Path]:
    return sorted(path for folder in out.glob("_progress-*") for path in folder.iterdir())


@pytest.mark.parametrize(("dies_at", "kept"), [(0, 0), (4, 1), (6, 2), (13, 4), (19, 6)])
def test_after_a_crash_only_the_chunk_in_flight_is_asked_again(put, tmp_path, dies_at, kept):
    given = put(prompts(20), (8, 14))
    calm = apply(OP, given, str(tmp_path / "calm"), resources=generator())
    log, out = tmp_path / "log", tmp_path / "out"
    with pytest.raises(WorkerError):
        apply(OP, given, str(out), resources=generator(log=str(log), dies_at=dies_at), processes=1)
    assert len(progress(out)) == kept
    done = apply(OP, given, str(out), resources=generator(log=str(log)))
    assert done.content_digest == calm.content_digest
    assert set(map(int, asked(log))) == set(range(20))
    twice = {int(name) for name, times in asked(log).items() if times > 1}
    assert all(0 < dies_at - name < 3 for name in twice)
    assert progress(out) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other-task", "other-input"])
def test_a_kept_chunk_is_used_only_if_it_is_whole_and_belongs_here(put, tmp_path, damage):
    given = put(prompts(9))
    calm = apply(OP, given, str(tmp_path / "calm"), resources=generator())
    log, out = tmp_path / "log", tmp_path / "out"
    with pytest.raises(WorkerError):
        apply(OP, given, str(out), resources=generator(dies_at=6), processes=1)
    first = progress(out)[0]
    data = first.read_bytes()
    header = json.loads(data.split(b"\n", 1)[0])
    changed = {
        "flip": data[:-100] + bytes([data[-100] ^ 1]) + data[-99:],
        "cut": data[:-1],
        "empty": b"",
        "other-task": data.replace(header["key"].encode(), b"0" * 64),
        "other-input": data.replace(header["source"].encode(), b"0" * 64 + header["source"][64:].encode()),
    }[damage]
    assert changed != data
    first.write_bytes(changed)
    assert apply(OP, given, str(out), resources=generator(log=str(log))).content_digest == calm.content_digest
    assert sorted(map(int, asked(log))) == [0, 1, 2, 6, 7, 8]


def test_a_run_over_its_budget_keeps_what_was_paid(put, tmp_path):
    given = put(responses(*(f"{'x' * i}" for i in range(1, 21))))
    log, out = tmp_path / "log", tmp_path / "out"
    op = Reward(rows_per_chunk=4)
    broken = scorer(odd={"x" * 10: float("nan")}, log=str(log))
    with pytest.raises(DataError) as caught:
        apply(op, given, str(out), resources=broken)
    assert caught.value.render().startswith(
        "error[10/reward-not-finite]: label.reward rejected 1 of the first 12 rows: sample_id=s9"
    )
    assert len(asked(log)) == 12
    done = apply(op, given, str(out), resources=broken, max_rejected=1)
    assert set(asked(log).values()) == {1}
    assert (done.num_rows, done.stats["rejected"]) == (19, {"reward-not-finite": 1})
    assert progress(out) == []


def test_the_later_of_two_writers_takes_what_the_first_kept(tmp_path):
    chunks = Chunks(str(tmp_path / "out"), "k" * 64)
    first = chunks.keep("shard-00000-chunk-000000", "source", Result(responses("first"), counts={"n": 1}))
    second = chunks.keep("shard-00000-chunk-000000", "source", Result(responses("second")))
    assert first.rows["response"].to_pylist() == second.rows["response"].to_pylist() == ["first"]
    assert (second.counts, second.rejected) == ({"n": 1}, None)
    assert chunks.find("shard-00000-chunk-000000", "other source") is None
    other = chunks.keep("shard-00000-chunk-000000", "other source", Result(responses("third")))
    assert other.rows["response"].to_pylist() == ["third"]


def test_a_twin_that_publishes_and_drops_does_not_disturb_one_that_still_keeps(tmp_path):
    chunks = Chunks(str(tmp_path / "out"), "k" * 64)
    keeping, over, rng = threading.Event(), threading.Event(), random.Random(7)

    def drops() -> None:
        while keeping.wait(60) and not over.is_set():
            keeping.clear()
            time.sleep(rng.uniform(0, 0.003))
            chunks.drop()

    with ThreadPoolExecutor(1) as pool:
        twin = pool.submit(drops)
        try:
            for number in range(300):
                keeping.set()
                result = chunks.keep(f"shard-00000-chunk-{number:06d}", "source", Result(responses(str(number))))
                assert result.rows["response"].to_pylist() == [str(number)]
        finally:
            over.set()
            keeping.set()
        twin.result()
    chunks.drop()
    assert progress(tmp_path / "out") == []


def test_chunks_on_another_store():
    chunks = Chunks("memory://paid/out", "k" * 64)
    chunks.keep("shard-00000-chunk-000000", "source", Result(responses("first"), responses("gone")))
    assert chunks.find("shard-00000-chunk-000000", "source").rejected.num_rows == 1
    chunks.drop()
    assert chunks.find("shard-00000-chunk-000000", "source") is None
