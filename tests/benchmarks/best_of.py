"""Best of 16 over a million samples, as a whole stage, against the polars pipeline that one would write by
hand.

Ours reads a committed dataset (hashes verified), keeps the winners, sets every other row aside with its
reason, and commits both with hashes, page checksums and statistics. The other scans the same Parquet, filters
and sinks the winners; it writes no rejected rows and checks nothing. "polars-aside" also writes ids and
rewards of the losers, as ours does. Each runs in a process of its own; printed are seconds, their ratio and
peak memory at two sizes.

    python -m tests.benchmarks.best_of [--rows 1000000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

SAMPLES_PER_PROMPT = 16
ROWS_PER_SHARD = 65_536


def make(url: str, rows: int) -> None:
    """A dataset of `rows` samples with responses of 200 to 600 characters and rewards with ties."""
    from schemas import Column, Schema
    from schemas.dataset import Attempt

    texts = (("prompt_id", "the question"), ("sample_id", "the sample"), ("response", "the answer"))
    columns = [Column(name, pa.string(), meaning) for name, meaning in texts]
    columns += [
        Column("sample_index", pa.int32(), "place"),
        Column("reward", pa.float64(), "reward", finite=True),
    ]
    schema = Schema("rewarded", 1, tuple(columns), key=("sample_id",))
    attempt = Attempt.begin(url, schema)
    rng = np.random.default_rng(0)
    words = np.array([f"{word:x}" for word in rng.integers(0, 1 << 24, 50_000)])
    letters = " ".join(rng.choice(words, 200_000))
    files = []
    for index, start in enumerate(range(0, rows, ROWS_PER_SHARD)):
        number = np.arange(start, min(start + ROWS_PER_SHARD, rows))
        at, size = rng.integers(0, len(letters) - 600, len(number)), rng.integers(200, 600, len(number))
        table = pa.table(
            {
                "prompt_id": [f"{n // SAMPLES_PER_PROMPT:032x}" for n in number.tolist()],
                "sample_id": [f"{n:032x}" for n in number.tolist()],
                "response": [letters[a : a + s] for a, s in zip(at.tolist(), size.tolist(), strict=True)],
                "sample_index": pa.array(number % SAMPLES_PER_PROMPT, pa.int32()),
                "reward": np.round(rng.normal(size=len(number)), 3),
            }
        )
        writer = attempt.shard(index)
        writer.write(table)
        files.append(writer.finish())
    attempt.commit(files)


def ours(url: str, into: str) -> int:
    """The stage, inline."""
    from datakit.apply import apply
    from datakit.filter import BestOf
    from schemas.dataset import Dataset

    return apply(BestOf(), Dataset.open(url), into).num_rows


def polars(url: str, into: str, aside: bool = False) -> int:
    """The hand-written pipeline; ties by sample index, as ours."""
    import polars as pl

    Path(into).mkdir(parents=True)
    rows = pl.scan_parquet(f"{url}/*.parquet")
    best = pl.col("reward") == pl.col("reward").max().over("prompt_id")
    first = pl.col("sample_index") == pl.col("sample_index").filter(best).min().over("prompt_id")
    rows.filter(best & first).sink_parquet(f"{into}/best.parquet", compression="zstd", compression_level=1)
    if aside:
        losers = rows.select("prompt_id", "sample_id", "sample_index", "reward").filter(~(best & first))
        losers.sink_parquet(f"{into}/rest.parquet", compression="zstd", compression_level=1)
    return pl.scan_parquet(f"{into}/best.parquet").select(pl.len()).collect().item()


WAYS = {"ours": ours, "polars": polars, "polars-aside": lambda url, into: polars(url, into, aside=True)}


def one(way: str, url: str) -> dict[str, float]:
    """Seconds, megabytes and rows of one run in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.best_of", "--way", way, "--url", url]
    figures: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--url")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="quiver-bench-") as folder:
        if options.way:
            start = time.perf_counter()
            kept = WAYS[options.way](options.url, f"{folder}/out")
            seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
            cpu = used.ru_utime + used.ru_stime
            print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_mb": used.ru_maxrss / 1024, "kept": kept}))
            return
        for rows in (options.rows // 4, options.rows):
            url = f"{folder}/{rows}"
            make(url, rows)
            runs = {way: [one(way, url) for _ in range(options.repeats)] for way in WAYS}
            middle = {way: statistics.median(run["seconds"] for run in figures) for way, figures in runs.items()}
            assert len({run["kept"] for figures in runs.values() for run in figures}) == 1, runs
            for way, figures in runs.items():
                peak = max(run["peak_mb"] for run in figures)
                cpu = statistics.median(run["cpu"] for run in figures)
                ratio = f"ours/it {middle['ours'] / middle[way]:5.2f}"
                print(f"{rows:>9} rows {way:<12} {middle[way]:6.2f} s {ratio} cpu {cpu:5.2f} s {peak:4.0f} MB")


if __name__ == "__main__":
    main()
