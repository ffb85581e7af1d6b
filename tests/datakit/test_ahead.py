"""A model elsewhere has all its requests under way across the borders of chunks and shards; the bytes are those of one.

The client's requests meet in groups of eight: one that is alone, because the next chunk was not asked yet, never gets
an answer.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.clients import Sampling
from datakit.generate import Complete
from datakit.run.ahead import in_order
from datakit.run.resource import Resource
from schemas.errors import DataError, ServiceError
from tests.datakit.fakes import TOKENIZED_PROMPTS, EchoGenerator, prompts

OP = Complete(sampling=Sampling(samples_per_prompt=2), rows_per_chunk=6)


class Server(EchoGenerator):
    """Answers elsewhere: one request a row, `requests` of them under way, which wait for each other.

    From the row of token `down` on it is down; the row of token `slow` is answered when all others are.
    """

    def __init__(self, requests: int, log: str = "", down: int = 999, slow: int = -1, rows: int = 0) -> None:
        super().__init__(log)
        self.pool, self.requests = ThreadPoolExecutor(requests), requests
        self.group = threading.Barrier(requests) if slow < 0 and down == 999 else threading.Barrier(1)
        self.down, self.slow, self.rows, self.answered = down, slow, rows, threading.Semaphore(0)

    def generate(self, rows: pa.Table, sampling: Sampling, seeds: np.ndarray) -> pa.Table:
        asked = [self.pool.submit(self._ask, rows, row, sampling, seeds) for row in range(rows.num_rows)]
        return pa.concat_tables([one.result() for one in asked])

    def _ask(self, rows: pa.Table, row: int, sampling: Sampling, seeds: np.ndarray) -> pa.Table:
        token = rows["prompt_ids"][row].as_py()[0]
        if token >= self.down:
            raise ServiceError("model-down", "the server does not answer")
        self.group.wait(20)
        if token == self.slow:
            for _ in range(self.rows - 1):
                assert self.answered.acquire(timeout=20)
        answer = super().generate(rows.slice(row, 1), sampling, seeds[row : row + 1])
        self.answered.release()
        return answer.set_column(0, "prompt_row", pa.array([row] * answer.num_rows, pa.int32()))

    def close(self) -> None:
        self.pool.shutdown()


def server(requests: int, log: str = "", **settings: int) -> dict[str, Resource]:
    opened = functools.partial(Server, requests, log, **settings)
    return {"generator": Resource("echo-1", opened, TOKENIZED_PROMPTS, "t", concurrency=requests)}


@pytest.mark.parametrize("processes", [0, 1])
def test_all_requests_are_under_way_over_the_borders_of_chunks_and_shards(put, tmp_path, processes):
    given = put(prompts(48), (20, 28))
    alone = apply(OP, given, str(tmp_path / "one"), resources=server(1))
    log, made = tmp_path / "log", []
    many = apply(OP, given, str(tmp_path / "many"), resources=server(8, str(log)), processes=processes,
                 on_progress=made.append)  # fmt: skip
    assert many.content_digest == alone.content_digest and many.num_rows == 96
    assert [file.sha256 for file in many.shards] == [file.sha256 for file in alone.shards]
    assert Counter(log.read_text().split()).most_common(1)[0][1] == 1 and made[-1].rows == 48
    assert not list((tmp_path / "many").glob("_progress-*"))


def test_a_slow_answer_does_not_make_the_others_wait(put, tmp_path):
    """The first row is answered last of all: every other chunk, of both shards, is asked meanwhile."""
    given = put(prompts(60), (30, 30))
    alone = apply(OP, given, str(tmp_path / "one"), resources=server(1))
    done = apply(OP, given, str(tmp_path / "out"), resources=server(3, slow=0, rows=60))
    assert done.content_digest == alone.content_digest


@pytest.mark.parametrize("processes", [0, 1])
def test_a_server_that_goes_down_is_paid_once(put, tmp_path, processes):
    given = put(prompts(48), (20, 28))
    calm = apply(OP, given, str(tmp_path / "calm"), resources=server(1))
    log, out = tmp_path / "log", tmp_path / "out"
    with pytest.raises(ServiceError):
        apply(OP, given, str(out), resources=server(8, str(log), down=15), processes=processes)
    paid = {int(token) for token in log.read_text().split()}
    assert set(range(12)) <= paid, "two whole chunks were answered before"
    log.unlink()
    done = apply(OP, given, str(out), resources=server(1, str(log)), processes=processes)
    assert done.content_digest == calm.content_digest
    assert sorted(map(int, log.read_text().split())) == list(range(12, 48)), "kept chunks are not asked again"


def test_too_many_rejected_rows_keep_what_is_under_way(put, tmp_path):
    given, log, out = put(prompts(30)), tmp_path / "log", tmp_path / "out"

    class Refusing(Server):
        def _ask(self, rows, row, sampling, seeds):
            answer = super()._ask(rows, row, sampling, seeds)
            if rows["prompt_ids"][row].as_py()[0]:
                return answer.append_column("error", pa.nulls(answer.num_rows, pa.string()))
            return answer.append_column("error", pa.array(["no"] * answer.num_rows))

    refusing = functools.partial(Refusing, 2, str(log), slow=-2)
    resources = {"generator": Resource("echo-1", refusing, TOKENIZED_PROMPTS, "t", concurrency=2)}
    with pytest.raises(DataError, match="rejected"):
        apply(OP, given, str(out), resources=resources, max_rejected=1)
    kept = [path for folder in out.glob("_progress-*") for path in folder.iterdir()]
    assert len(kept) * 6 == len(log.read_text().split()), "every answer stands in a chunk that is kept"


def test_order_bounds_and_failures():
    begun, ready, lock = [], [], threading.Lock()

    def call(number: int) -> int:
        with lock:
            begun.append(number)
        time.sleep(0.02 if number % 3 else 0.06)
        if number == 7:
            raise ValueError(number)
        return number * number

    made = []

    def drain() -> None:
        for number, square in in_order(call, iter(range(40)), threads=3, most=5, ready=ready.append):
            made.append((number, square))
            assert max(begun) < number + 1 + 5

    with pytest.raises(ValueError, match="7"):
        drain()
    assert made == [(number, number * number) for number in range(7)]
    assert max(begun) < 12 and set(range(7)) <= set(ready) and 7 not in ready
    assert list(in_order(call, iter(()), threads=3, most=5, ready=ready.append)) == []


def test_what_is_under_way_as_one_fails_is_ready_before_the_failure_is_raised():
    """Four are asked at once: the first fails while the others are under way."""
    together, failed, answered, ready = threading.Barrier(4), threading.Event(), [], []

    def call(number: int) -> int:
        together.wait(timeout=30)
        if number == 0:
            failed.set()
            raise ValueError(number)
        assert failed.wait(timeout=30)
        time.sleep(0.2)
        answered.append(number)
        return number

    with pytest.raises(ValueError, match="0"):
        list(in_order(call, iter(range(40)), threads=4, most=8, ready=ready.append))
    assert sorted(answered) == sorted(ready) == [1, 2, 3]
