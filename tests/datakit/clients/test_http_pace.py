"""How many requests are under way: the limit of a server is found and kept, rests are kept, servers share work."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.clients import Sampling
from datakit.clients.http import Address, Asking, HttpGenerator, Limits
from datakit.clients.http.address import Key
from datakit.clients.http.pace import Pace
from tests.model_server import Body, ModelServer, Raw, http


def ran(pace: Pace, takes: int, requests: int) -> list[int]:
    """How many a server had under way that takes so many at a time, at each of its answers, in rounds of answers."""
    seen: list[int] = []

    async def one() -> None:
        while True:
            sent_in = await pace.enter()
            full = pace.under_way > takes
            await asyncio.sleep(0)
            if full:
                pace.turned_away(sent_in)
            else:
                seen.append(pace.under_way)
                pace.answered()
            pace.leave()
            if not full:
                return

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(requests)))

    asyncio.run(all_of_them())
    return seen


def test_a_hidden_limit_is_found_and_kept_full() -> None:
    for takes in (1, 7, 20):
        pace = Pace(64)
        seen = ran(pace, takes, 4_000)
        assert 0.8 * takes <= np.mean(seen[2_000:]) <= takes and pace.limit <= takes + 1
    free = Pace(64)
    ran(free, 64, 500)
    assert free.limit == 64


def test_connections_are_as_many_as_requests_are_under_way_and_are_used_again() -> None:
    with ModelServer(latency=0.002) as server:
        generator = HttpGenerator(Asking.opened(Address.of(server.reference), Key(), Limits(concurrency=4)))
        for first in (0, 40):
            turns = [[{"role": "user", "content": f"question {number}"}] for number in range(first, first + 40)]
            seeds = np.arange(40, dtype=np.uint64)
            made = generator.generate(pa.table({"messages": turns}), Sampling(max_new_tokens=4), seeds)
            assert made["error"].null_count == 40
        generator.close()
    assert server.asked.total() == 80 and 1 <= server.connections <= 4


def test_a_burst_counts_once_and_a_limit_that_rises_is_found() -> None:
    pace = Pace(16)
    for _ in range(16):
        pace.turned_away(0)
    assert pace.limit == 12
    pace.turned_away(1)
    assert pace.limit == 9
    for _ in range(25 * 4):
        pace.answered()
    assert pace.limit == 11  # 25 answers for each of two steps, and 50 of the 100 that lead beyond what was too much
    for _ in range(50):
        pace.answered()
    assert pace.limit == 12
    for _ in range(3_000):
        pace.answered()
    assert pace.limit == 16


def test_nothing_is_sent_while_a_server_rests() -> None:
    async def waited() -> float:
        pace = Pace(4)
        pace.turned_away(0, rest=0.2)
        started = time.monotonic()
        await asyncio.gather(*(pace.enter() for _ in range(3)))
        return time.monotonic() - started

    assert 0.19 < asyncio.run(waited()) < 30


def test_the_wait_that_a_server_asks_for_is_kept() -> None:
    """One refusal with a wait of 0.4 s: nothing is sent until it is over; without it 0.12 s would be the most."""
    sent: list[float] = []

    def fault(server: ModelServer, body: Body, answer: Body) -> Raw | None:
        sent.append(time.monotonic())
        return Raw(http(429, b"{}", {"Retry-After": "0.4"})) if len(sent) == 1 else None

    with ModelServer(faults=fault) as server:
        generator = HttpGenerator(Asking.opened(Address.of(server.reference), Key(), Limits()))
        turns = pa.table({"messages": [[{"role": "user", "content": "question"}]]})
        rows = generator.generate(turns, Sampling(max_new_tokens=4), np.zeros(1, np.uint64))
        generator.close()
    assert rows["error"].null_count == 1 and len(sent) == 2 and 0.39 < sent[1] - sent[0] < 30


@pytest.mark.parametrize("limits", [{"backoff": 0.05}, {"backoff": 1e-6, "tries": 2}], ids=["usual", "impatient"])
def test_several_servers_share_the_work_and_one_that_is_gone_costs_nothing(limits: dict[str, Any]) -> None:
    turns = [[{"role": "user", "content": f"question {number}"}] for number in range(60)]
    with ModelServer(latency=0.01) as one, ModelServer(latency=0.01) as other:
        with ModelServer() as gone:
            pass
        address = Address.of(f"{one.base}+{gone.base}+{other.base}#m")
        generator = HttpGenerator(Asking.opened(address, Key(), Limits(concurrency=4, **limits)))
        rows = generator.generate(
            pa.table({"messages": turns}), Sampling(max_new_tokens=4), np.arange(60, dtype=np.uint64) << np.uint64(16)
        )
        generator.close()
    assert rows["error"].null_count == 60
    assert one.asked.total() + other.asked.total() == 60 and min(one.asked.total(), other.asked.total()) > 10
