"""Tokens per second of clients of `quiver serve` against the sampler in process at the same batch, one core for each.

    python -m tests.benchmarks.serving [tiny|small] [clients] [seconds]

The server is a process of its own, with one thread of torch; 128 tokens an answer, which nothing ends. The sampler has
as many answers in its batch as there are clients, and as many places has the server. Streamed answers are measured too,
and how long the first token takes. Every answer is held against the sampler's for its seed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import multiprocessing
import statistics
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import httpx2
import numpy as np
import psutil
import pyarrow as pa
import torch

from datakit.template import Rendering
from datakit.tokenizers.tokenizer import Tokenizer
from pipelines.serve import listen
from pipelines.serve.models import Served
from pipelines.serve.texts import Texts
from tests.benchmarks.sampler import SIZES
from tests.trainers.networks import words
from tests.trainers.sampling import Sampling
from trainers.engine.inference.frozen import FrozenModel
from trainers.engine.inference.generator import Generator
from trainers.engine.megatron import parallel
from trainers.engine.megatron.model import build
from trainers.parallel import Parallel

TOKENS, PROMPT, TOKEN = 128, 16, "benchmark-token-0123456789"


def generator(size: str, batch: int) -> Generator:
    """The same random network in every process."""
    torch.set_num_threads(1)
    model = dataclasses.replace(SIZES[size], max_sequence_length=256)
    net = build(model, parallel.start(Parallel()), inference=True, seed=0).eval()
    return Generator(net, words(model.vocab_size), [], batch_size=batch)


def serve(size: str, slots: int, port: Connection) -> None:
    """The server's process: it sends its port, and ends with its parent's signal."""
    source = generator(size, slots)
    texts = Texts(Tokenizer("words", source.tokenizer.to_str()), Rendering())
    served = Served("m", FrozenModel(source.network), texts, source, positions=256)
    settings = listen.Settings(port=0, token=TOKEN, slots=slots, queue=2 * slots, threads=1)
    with listen.bound(settings) as listener:
        listener.listen(1024)
        port.send(listener.getsockname()[1])
        asyncio.run(listen.serve(settings, listener, served, None))


def prompts(size: str, count: int) -> list[list[int]]:
    """As many prompts of 16 tokens."""
    return np.random.default_rng(0).integers(2, SIZES[size].vocab_size, (count, PROMPT)).tolist()


class Load:
    """Clients that ask one after another until the time is over."""

    def __init__(self, port: int, size: str, stream: bool) -> None:
        self.port, self.stream, self.size = port, stream, SIZES[size]
        self.answers: dict[int, list[int]] = {}
        self.first: list[float] = []
        self.whole: list[float] = []

    async def run(self, given: list[list[int]], seconds: float) -> float:
        """Tokens per second of answers that were complete in time, after a first round that warms up."""
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        base = f"http://127.0.0.1:{self.port}"
        async with httpx2.AsyncClient(base_url=base, headers=headers, limits=limits, timeout=600) as client:
            await asyncio.gather(*(self._ask(client, prompt, 10**9 + n) for n, prompt in enumerate(given)))
            self.first.clear()
            self.whole.clear()
            began = time.perf_counter()
            counts = await asyncio.gather(
                *(self._until(client, prompt, n, began + seconds) for n, prompt in enumerate(given))
            )
            return sum(counts) * TOKENS / (time.perf_counter() - began)

    async def _until(self, client: httpx2.AsyncClient, prompt: list[int], number: int, end: float) -> int:
        count = 0
        while time.perf_counter() < end:
            await self._ask(client, prompt, number + count * 1_000_003)
            count += 1
        return count

    async def _ask(self, client: httpx2.AsyncClient, prompt: list[int], seed: int) -> None:
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": TOKENS, "seed": seed, "return_token_ids": True}
        began = time.perf_counter()
        if not self.stream:
            response = await client.post("/v1/completions", json=body)
            response.raise_for_status()
            ids = response.json()["choices"][0]["token_ids"]
        else:
            ids = []
            async with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
                response.raise_for_status()
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        if not ids:
                            self.first.append(time.perf_counter() - began)
                        ids += json.loads(line[6:])["choices"][0]["token_ids"]
        self.whole.append(time.perf_counter() - began)
        assert len(ids) == TOKENS, ids
        self.answers[seed] = ids


def cpu_seconds(pid: int | None) -> float:
    """What the process has used of all cores; on a machine with other work this compares better than time does."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def wrong(load: Load, source: Generator, given: list[list[int]]) -> int:
    """How many of some answers are not the sampler's for their seeds."""
    chosen = sorted(load.answers)[:: max(1, len(load.answers) // 256)][:256]
    rows = [given[seed % 1_000_003 if seed < 10**9 else seed - 10**9] for seed in chosen]
    table = pa.table({"prompt_ids": pa.array(rows, pa.list_(pa.int32()))})
    drawn = source.generate(table, Sampling(max_new_tokens=TOKENS), np.array(chosen, np.uint64))
    pairs = zip(chosen, drawn["response_ids"].to_pylist(), strict=True)
    return sum(load.answers[seed] != ids for seed, ids in pairs)


def main(size: str = "small", clients: str = "64", seconds: str = "20") -> None:
    """Print the sampler's rate, those of both ways of asking, their ratio, and the first token's time."""
    count, given = int(clients), prompts(size, int(clients))
    source = generator(size, count)
    table = pa.table({"prompt_ids": pa.array(given, pa.list_(pa.int32()))})
    rates, used = [], []
    for turn in range(4):
        began, cpu = time.perf_counter(), time.process_time()
        source.generate(table, Sampling(max_new_tokens=TOKENS), np.arange(count, dtype=np.uint64) + np.uint64(turn))
        rates.append(count * TOKENS / (time.perf_counter() - began))
        used.append(count * TOKENS / (time.process_time() - cpu))
    offline, by_cpu = statistics.median(rates[1:]), statistics.median(used[1:])
    print(f"{size}, {count} answers at once: the sampler {offline:8.0f} tokens/s", flush=True)
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    server = context.Process(target=serve, args=(size, count, its), daemon=True)
    server.start()
    port = mine.recv()
    try:
        for stream in (False, True):
            load = Load(port, size, stream)
            before = cpu_seconds(server.pid)
            rate = asyncio.run(load.run(given, float(seconds)))
            each = (len(load.whole) + count) * TOKENS / (cpu_seconds(server.pid) - before)
            waits = sorted(load.first or load.whole)
            late = f"p99 of the {'first token' if stream else 'answer'} {waits[int(0.99 * len(waits))]:.2f} s"
            ratios = f"ratio {rate / offline:.2f} (by CPU second {each / by_cpu:.2f})"
            other = f"{wrong(load, source, given)} other than the sampler's"
            way = "in pieces" if stream else "whole"
            print(f"{way:9} {len(load.whole):6} answers {rate:8.0f} tokens/s   {ratios}   {late}   {other}", flush=True)
    finally:
        server.terminate()
        server.join(30)


if __name__ == "__main__":
    main(*sys.argv[1:])
