"""Import of a generated JSON Lines file, against what one would write by hand: MB/s and peak memory at two
sizes.

"ours" checks types, text and grammar, hashes the source, gives ids, and commits shards with hashes and
statistics. "parse" is ours without the commit. "json-loop" reads lines with `json.loads` into Arrow batches;
"polars" is `scan_ndjson` to a sink with a declared schema; "duckdb" is `read_json` with declared columns into
Parquet. The others give no ids and name no bad line. Each runs in a process of its own.

    python -m tests.benchmarks.jsonl_import [--megabytes 1000] [--repeats 1]
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


def make(path: Path, megabytes: int) -> None:
    """Prompt-response rows of about 1 kB."""
    rng = np.random.default_rng(0)
    words = [f"{word:x}" for word in rng.integers(0, 1 << 24, 50_000)]
    letters = " ".join(rng.choice(words, 200_000))
    written, number = 0, 0
    with path.open("w") as file:
        while written < megabytes * 1_000_000:
            at, ask, say = (
                rng.integers(0, len(letters) - 2000),
                rng.integers(50, 400),
                rng.integers(200, 1400),
            )
            row = {
                "prompt": f"{number} {letters[at : at + ask]}\n",
                "response": f'"{letters[at + ask : at + ask + say]}"',
            }
            written += file.write(json.dumps(row) + "\n")
            number += 1


def ours(path: str, into: str) -> int:
    """The stage, inline."""
    from datakit.apply import apply
    from datakit.io import Jsonl

    return apply(Jsonl(files=(path,), format="completions"), [], into).num_rows


def parse(path: str, into: str) -> int:
    """Rows made and dropped."""
    from datakit.io import Jsonl
    from datakit.op import Context

    return sum(result.rows.num_rows for result in Jsonl(files=(path,), format="completions").read(Context()))


def json_loop(path: str, into: str) -> int:
    """The loop that most preparation scripts are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("prompt", pa.string()), ("response", pa.string())])
    count, rows = 0, []
    with open(path) as file, pq.ParquetWriter(into, schema, compression="zstd") as writer:
        for line in file:
            rows.append(json.loads(line))
            if len(rows) == 10_000:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                count, rows = count + len(rows), []
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return count + len(rows)


def polars(path: str, into: str) -> int:
    """A lazy scan with a declared schema, streamed to a file."""
    import polars as pl

    schema = {"prompt": pl.String, "response": pl.String}
    pl.scan_ndjson(path, schema=schema).sink_parquet(into, compression="zstd", compression_level=1)
    return int(pl.scan_parquet(into).select(pl.len()).collect().item())


def duckdb(path: str, into: str) -> int:
    """SQL with declared columns."""
    import duckdb as db

    columns = "{prompt: 'VARCHAR', response: 'VARCHAR'}"
    source = f"read_json('{path}', format='newline_delimited', columns={columns})"
    db.sql("SET threads=1")
    db.sql(f"COPY (SELECT * FROM {source}) TO '{into}' (FORMAT parquet, COMPRESSION zstd)")
    return int(db.sql(f"SELECT count(*) FROM read_parquet('{into}')").fetchall()[0][0])


WAYS = {"ours": ours, "parse": parse, "json-loop": json_loop, "polars": polars, "duckdb": duckdb}


def one(way: str, path: Path) -> dict[str, float]:
    """Seconds, megabytes and rows of one run in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.jsonl_import", "--way", way, "--path", str(path)]
    figures: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--path")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="quiver-bench-") as folder:
        if options.way:
            start = time.perf_counter()
            rows = WAYS[options.way](options.path, f"{folder}/out")
            seconds = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            figures = {"seconds": seconds, "cpu": time.process_time(), "peak_mb": peak, "rows": rows}
            print(json.dumps(figures))
            return
        for megabytes in (options.megabytes // 4, options.megabytes):
            path = Path(folder) / f"{megabytes}.jsonl"
            make(path, megabytes)
            size = path.stat().st_size / 1e6
            runs = {way: [one(way, path) for _ in range(options.repeats)] for way in WAYS}
            assert len({run["rows"] for figures in runs.values() for run in figures}) == 1, runs
            ours_seconds = statistics.median(run["seconds"] for run in runs["ours"])
            for way, figures in runs.items():
                seconds = statistics.median(run["seconds"] for run in figures)
                peak = max(run["peak_mb"] for run in figures)
                cpu = statistics.median(run["cpu"] for run in figures)
                rate, ratio = size / seconds, ours_seconds / seconds
                print(
                    f"{size:6.0f} MB  {way:<10} {rate:6.1f} MB/s  {cpu:5.1f} s CPU  peak {peak:6.0f} MB  "
                    f"ours takes {ratio:5.2f} times as long"
                )
            path.unlink()


if __name__ == "__main__":
    main()
