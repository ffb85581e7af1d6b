"""Answers that were paid for survive whatever ends the process: nothing is asked twice beyond what was under way."""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from datakit.apply import apply
from datakit.clients import Sampling
from datakit.clients.http import Address, Asking, HttpGenerator, Limits
from datakit.clients.http.address import Key
from datakit.generate import Complete
from datakit.run.journal import Journal
from datakit.run.resource import Resource
from schemas.dataset import Dataset
from schemas.errors import ServiceError
from tests.datakit import fakes
from tests.model_server import ModelServer, Raw, http
from tests.sources import ROOT

OP = Complete(sampling=Sampling(samples_per_prompt=2, max_new_tokens=8), rows_per_chunk=40)
WIDTH = 4


def opened(reference: str) -> HttpGenerator:
    return HttpGenerator(Asking.opened(Address.of(reference), Key(), Limits(concurrency=WIDTH, backoff=0.01, tries=2)))


def answered(reference: str, prompts: Dataset, out: str) -> Dataset:
    resource = Resource("m", functools.partial(opened, reference), outputs=("response",), concurrency=2)
    return apply(OP, prompts, out, resources={"generator": resource})


def test_a_journal_gives_back_whole_lines_alone(tmp_path: Path) -> None:
    path, keys = str(tmp_path / "new" / "chunk.answers"), [f"{number:064x}" for number in range(4)]
    journal = Journal(path)
    assert journal.find(keys[0]) is None
    answers = [
        {"text": "a\nb \u2028 \U0001f600"},
        {"logprobs": [-0.1, -1e-9]},
        {"refused": "\x1b[1m"},
        {"text": "x" * 9999},
    ]
    for key, answer in zip(keys, answers, strict=True):
        journal.add(key, answer)
    journal.close()
    data = Path(path).read_bytes()
    assert oct(os.stat(path).st_mode & 0o777) == "0o600"
    assert [Journal(path).find(key) for key in keys] == answers
    for cut in (len(data) - 2, len(data) - 5000, data.index(keys[1].encode()) + 10):
        Path(path).write_bytes(data[:cut])
        torn = Journal(path)
        whole = [torn.find(key) for key in keys]
        assert whole == [answer if answer in whole else None for answer in answers] and whole[0] == answers[0]
        torn.add(keys[3], "again")
        torn.close()
        assert Journal(path).find(keys[3]) == "again" and Journal(path).find(keys[0]) == answers[0]
    Path(path).write_bytes(data.replace(b"-0.1", b"-0.2"))
    assert Journal(path).find(keys[1]) is None and Journal(path).find(keys[2]) == answers[2]
    journal.drop()
    assert not Path(path).exists()


def test_a_journal_of_any_size_is_read_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where answers stand is held, not the answers; a line without an end is none, and hides none behind it."""
    path, keys = str(tmp_path / "chunk.answers"), [f"{number:064x}" for number in range(40)]
    monkeypatch.setattr("datakit.run.journal._LONGEST", 1 << 20)
    journal = Journal(path)
    for at, key in enumerate(keys):
        journal.add(key, f"{at}" + "x" * 500_000)
        if at == 20:
            with open(path, "ab") as file:
                file.write(b"y" * (5 << 20))
    journal.close()
    tracemalloc.start()
    try:
        beginnings = [(journal.find(key) or "")[:2] for key in keys]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert beginnings == [f"{at}x"[:2] for at in range(40)]
    assert peak < 8 << 20 < os.path.getsize(path) // 3, peak


def test_what_was_answered_before_a_server_failed_is_not_asked_again(put: Any, tmp_path: Path) -> None:
    prompts, out = put(fakes.prompts(80)), str(tmp_path / "out")
    broken = {"now": True}  # two chunks of 40: neither is whole, and gone from its journal, before the server fails

    def odd(server: ModelServer, body: dict, answer: dict) -> Raw | None:
        failing = broken["now"] and server.asked.total() > 30
        return Raw(http(503, b'{"message": "asleep"}')) if failing else None

    with ModelServer(faults=odd, latency=0.005) as server:
        with pytest.raises(ServiceError, match="does not answer, asked 2 times") as fault:
            answered(server.reference, prompts, out)
        assert fault.value.slug == "no-answer" and "503: asleep" in fault.value.found
        first = server.asked.copy()
        kept = sum(path.read_bytes().count(b'"choices"') for path in Path(out).rglob("*.answers"))
        assert 26 <= kept <= 30 and not Dataset.exists(out)
        broken["now"] = False
        done = answered(server.reference, prompts, out)
        once = [key for key, count in server.asked.items() if count == 1]
        calm = answered(server.reference, prompts, str(tmp_path / "calm"))
    assert done.content_digest == calm.content_digest and done.num_rows == 160
    assert len([key for key in once if key in first]) == kept and len(once) >= kept + 80 - len(first)
    assert not list(Path(out).glob("_progress-*"))


def killed_at(seconds: float, server: ModelServer, prompts: Dataset, out: str) -> bool:
    """Whether a process that answers the prompts was killed so long after it had asked, before it was done."""
    before = server.asked.total()
    code = f"""if __name__ == "__main__":
    from schemas.dataset import Dataset
    from tests.datakit.clients.test_http_journal import answered
    print("ready", flush=True)
    answered({server.reference!r}, Dataset.open({prompts.url!r}), {out!r})"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as run:
        assert run.stdout is not None and run.stdout.readline() == b"ready\n"
        while server.asked.total() == before and run.poll() is None:
            time.sleep(0.002)
        time.sleep(seconds)
        run.send_signal(signal.SIGKILL)
        return run.wait() == -signal.SIGKILL


def killed_and_done(put: Any, tmp_path: Path, kills: int, count: int) -> None:
    prompts, out, drawn = put(fakes.prompts(count)), str(tmp_path / "out"), random.Random(7)
    with ModelServer(latency=0.02) as server:
        calm = answered(server.reference, prompts, str(tmp_path / "calm"))
        server.asked.clear()
        times = sum(killed_at(drawn.uniform(0.0, 0.1), server, prompts, out) for _ in range(kills))
        done = answered(server.reference, prompts, out)
    again = server.asked.total() - len(server.asked)
    assert times == kills and len(server.asked) == count and 0 < again <= WIDTH * times, (again, times)
    assert done.content_digest == calm.content_digest
    names = done.read()["sample_id"].to_pylist()
    assert len(names) == len(set(names)) == 2 * count


@pytest.mark.slow
def test_a_run_that_is_killed_at_forty_moments_asks_nothing_twice_beyond_what_was_under_way(
    put: Any, tmp_path: Path
) -> None:
    killed_and_done(put, tmp_path, 40, 1200)


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(put: Any, tmp_path: Path) -> None:
    killed_and_done(put, tmp_path, 2, 160)
