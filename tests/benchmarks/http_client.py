"""The client of servers against one of fixed latency: its rate against the ideal one, the limit it finds, memory.

    python -m tests.benchmarks.http_client [prompts]
    python -m tests.benchmarks.http_client --peak prompts

The server (`tests.model_server`, a process of its own) answers every request after 64 ms. With 32 requests under way
500 a second is the ideal rate. Where it turns away what is more than 20 at a time, and the client may have 64, the
second figure is the mean number under way after 2,000 requests, as a share of 20. The third is the CPU of the client
for a request. Then the peak memory of a process that answers 20,000 prompts, and so many as are given: at most 500 MB
at 200,000, and 30 MB above that at 20,000.
"""

from __future__ import annotations

import functools
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

from datakit.apply import apply
from datakit.clients import Sampling
from datakit.clients.http import Address, Asking, HttpGenerator, Limits
from datakit.clients.http.address import Key
from datakit.generate import Complete
from datakit.run.resource import Resource
from schemas import PROMPTS
from schemas.dataset import Attempt

LATENCY, WIDTH, HIDDEN, REQUESTS = 0.064, 32, 20, 4_000
ONE = Sampling(max_new_tokens=8)


@contextmanager
def served(*flags: str) -> Iterator[str]:
    """The reference of a server in a process of its own."""
    command = [sys.executable, "-m", "tests.model_server", "--latency", str(LATENCY), *flags]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1#m"
        process.stdin.close()


def opened(reference: str, width: int) -> HttpGenerator:
    return HttpGenerator(Asking.opened(Address.of(reference), Key(), Limits(concurrency=width)))


def seconds(generator: HttpGenerator, first: int, count: int) -> float:
    """How long so many prompts take, the first of them number `first`; all are answered."""
    turns = [[{"role": "user", "content": f"question {number}"}] for number in range(first, first + count)]
    started = time.monotonic()
    made = generator.generate(pa.table({"messages": turns}), ONE, np.arange(first, first + count, dtype=np.uint64))
    taken = time.monotonic() - started
    assert made["error"].null_count == count, made["error"]
    return taken


def rate_of_ideal() -> tuple[float, float]:
    """The rate as a share of the ideal one, and milliseconds of CPU for a request."""
    with served() as reference:
        generator = opened(reference, WIDTH)
        seconds(generator, 0, 4 * WIDTH)
        before = time.process_time()
        share = REQUESTS / seconds(generator, 10_000, REQUESTS) / (WIDTH / LATENCY)
        work = (time.process_time() - before) / REQUESTS * 1e3
        generator.close()
    return share, work


def share_of_limit() -> float:
    """Mean number of answered requests under way, by Little's law, over what the server takes."""
    with served("--limit", str(HIDDEN)) as reference:
        generator = opened(reference, 2 * WIDTH)
        seconds(generator, 0, 2_000)
        share = REQUESTS / seconds(generator, 10_000, REQUESTS) * LATENCY / HIDDEN
        generator.close()
    return share


def peak_megabytes(count: int) -> float:
    """Peak memory of this process after it answered `count` prompts, as a stage does."""
    with served("--latency", "0") as reference, tempfile.TemporaryDirectory() as folder:
        attempt = Attempt.begin(f"{folder}/prompts", PROMPTS)
        files = []
        for index, first in enumerate(range(0, count, 10_000)):
            numbers = range(first, min(count, first + 10_000))
            names = {"prompt_id": [f"p{number}" for number in numbers]}
            turns = {"messages": [[{"role": "user", "content": f"question {number}"}] for number in numbers]}
            writer = attempt.shard(index)
            writer.write(PROMPTS.conform(pa.table({**names, **turns})))
            files.append(writer.finish())
        prompts = attempt.commit(files)
        asked = {
            "generator": Resource(
                "m", functools.partial(opened, reference, WIDTH), outputs=("response",), concurrency=WIDTH
            )
        }
        made = apply(Complete(sampling=ONE), prompts, f"{folder}/samples", resources=asked)
        assert made.num_rows == count, made
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_of(count: int) -> float:
    """`peak_megabytes` in a process of its own, which has done nothing else."""
    command = [sys.executable, "-m", "tests.benchmarks.http_client", "--peak", str(count)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--peak"]:
        print(f"{peak_megabytes(int(sys.argv[2])):.1f}")
        return
    share, work = rate_of_ideal()
    figures = {
        "rate, share of the ideal": share,
        "under way, share of the hidden limit": share_of_limit(),
        "CPU for a request, ms": work,
    }
    for name, figure in figures.items():
        print(f"{name:<40}{figure:8.3f}", flush=True)
    for count in sorted({20_000, *map(int, sys.argv[1:2])}):
        print(f"{f'peak memory, MB, {count:,} prompts':<40}{peak_of(count):8.0f}", flush=True)


if __name__ == "__main__":
    main()
