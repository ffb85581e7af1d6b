"""Questions over a workspace by the names of its views, against the SQL that one would write by hand over its files.

A workspace of 30 datasets holds a million samples, and their rewards; another holds 2,000 small datasets. Printed are
seconds (median): to open the views once they are made, of each question by name and by hand with their ratio, and how
long all views take to be made; of the forensic views, which nobody writes by hand, the seconds of each. Of commands,
each a process of its own with the children that it starts: seconds on the clock, seconds of work on all cores (which
other load leaves as they are), and the memory of the largest process. The first look at a workspace, which reads all
manifests, stands alone. What is promised stands behind a figure, and in the end what was beyond it.

    python -m tests.benchmarks.catalog [--rows 1000000] [--datasets 2000] [--repeats 5]
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.catalog.manifest_cache import CACHE
from schemas import SAMPLES, Column, Dataset, Schema
from schemas.dataset import Attempt
from schemas.manifest import MANIFEST, Manifest

ITERATIONS, SHARDS, PER_PROMPT = 15, 4, 16
REWARDED = SAMPLES.adding(Column("reward", pa.float64(), "higher is better", finite=True))
QUESTIONS = {
    "reward by iteration": (
        "SELECT iteration, avg(value), quantile_cont(value, 0.9) FROM rewards GROUP BY 1 ORDER BY 1",
        """SELECT regexp_extract(filename, 'iter=(\\d+)', 1)::INTEGER AS iteration, avg(reward),
           quantile_cont(reward, 0.9) FROM read_parquet('{root}/*/*/*/rewards-*/*.parquet', filename = true,
           hive_partitioning = false) GROUP BY 1 ORDER BY 1""",
    ),
    "one iteration": (
        "SELECT count(*), avg(value) FROM rewards WHERE iteration = 7",
        "SELECT count(*), avg(reward) FROM read_parquet('{root}/rest/*/iter=7/rewards-*/*.parquet')",
    ),
    "best and worst": (
        "SELECT sample_id, value FROM rewards QUALIFY row_number() OVER (ORDER BY value DESC) <= 5",
        """SELECT sample_id, reward FROM read_parquet('{root}/*/*/*/rewards-*/*.parquet', hive_partitioning = false)
           QUALIFY row_number() OVER (ORDER BY reward DESC) <= 5""",
    ),
    "answers that were cut": (
        "SELECT iteration, avg((finish_reason = 'length')::INT) FROM samples GROUP BY 1 ORDER BY 1",
        """SELECT regexp_extract(filename, 'iter=(\\d+)', 1)::INTEGER AS iteration, avg((finish_reason = 'length')::INT)
           FROM read_parquet('{root}/*/*/*/samples-*/*.parquet', filename = true, hive_partitioning = false)
           GROUP BY 1 ORDER BY 1""",
    ),
    "reward and length": (
        "SELECT corr(value, len(response)) FROM samples JOIN rewards USING (sample_id)",
        """SELECT corr(reward, len(samples.response))
           FROM read_parquet('{root}/*/*/*/samples-*/*.parquet', hive_partitioning = false) samples
           JOIN read_parquet('{root}/*/*/*/rewards-*/*.parquet', hive_partitioning = false) rewards
           USING (sample_id)""",
    ),
    "an answer by its words": (
        "SELECT sample_id, iteration FROM samples WHERE response LIKE '%zz9%' LIMIT 5",
        """SELECT sample_id, filename FROM read_parquet('{root}/*/*/*/samples-*/*.parquet', filename = true,
           hive_partitioning = false) WHERE response LIKE '%zz9%' LIMIT 5""",
    ),
}
"""By the names of views, and by hand."""


def large(root: Path, rows: int) -> None:
    """`rows` samples and their rewards, in two datasets an iteration."""
    rng = np.random.default_rng(0)
    each = rows // (ITERATIONS * SHARDS)
    letters = " ".join(f"{word:x}" for word in rng.integers(0, 1 << 24, 100_000))
    for iteration in range(1, ITERATIONS + 1):
        folder = root / "rest" / "digits" / f"iter={iteration}"
        tables = [_samples(rng, letters, each, f"{iteration}-{shard}") for shard in range(SHARDS)]
        first = _commit(folder / "samples-00000001", SAMPLES, tables, [], "generate.complete")
        scored = [_rewarded(rng, table) for table in tables]
        _commit(folder / "rewards-00000001", REWARDED, scored, [first], "label.reward")


def _samples(rng: np.random.Generator, letters: str, rows: int, name: str) -> pa.Table:
    starts, sizes = rng.integers(0, len(letters) - 400, rows), rng.integers(50, 400, rows)
    ids = [list(range(size % 40)) for size in sizes.tolist()]
    columns: dict[str, Any] = {
        "prompt_id": [f"{name}-{row // PER_PROMPT}" for row in range(rows)],
        "messages": [[{"role": "user", "content": letters[at : at + 60]}] for at in starts.tolist()],
        "prompt": [letters[at : at + 60] for at in starts.tolist()],
        "prompt_ids": [[1, 2, 3]] * rows,
        "sample_id": [f"{name}-{row}" for row in range(rows)],
        "sample_index": pa.array(np.arange(rows) % PER_PROMPT, pa.int32()),
        "response": [letters[at : at + size] for at, size in zip(starts.tolist(), sizes.tolist(), strict=True)],
        "response_ids": ids,
        "logprobs": [[-0.5] * len(one) for one in ids],
        "finish_reason": np.where(rng.random(rows) < 0.1, "length", "stop"),
    }
    missing = {name: pa.nulls(rows, pa.string()) for name in ("tools", "answer", "source")}
    return SAMPLES.conform(pa.table({**columns, **missing}))


def _rewarded(rng: np.random.Generator, table: pa.Table) -> pa.Table:
    rewards = pa.array(np.round(rng.normal(size=table.num_rows), 3))
    return REWARDED.conform(table.append_column("reward", rewards))


def _commit(place: Path, schema: Schema, tables: Sequence[pa.Table], parents: Sequence[Dataset], op: str) -> Dataset:
    with Attempt.begin(str(place), schema) as attempt:
        files = []
        for number, table in enumerate(tables):
            writer = attempt.shard(number)
            writer.write(table)
            files.append(writer.finish())
        return attempt.commit(
            files,
            op={"name": op, "version": 1, "params": {"column": "reward"}},
            parents=[one.as_parent(str(number)) for number, one in enumerate(parents)],
        )


def many(root: Path, datasets: int) -> None:
    """Small `datasets` in several folders: one that was committed, under other seeds and with the same shard."""
    first = _commit(root / "own/first-00000001", SAMPLES, [SAMPLES.example(3)], [], "generate.complete")
    shard = first.paths()[0]
    for number in range(datasets - 1):
        folder = root / f"recipe{number % 10}" / f"run{number // 100}" / f"rows{number}-{number:08x}"
        folder.mkdir(parents=True)
        os.link(shard, folder / Path(shard).name)
        manifest: Manifest = dataclasses.replace(first.manifest, seed=number)
        (folder / MANIFEST).write_bytes(manifest.to_bytes())


def seconds(repeats: int, *works: Callable[[], object]) -> list[float]:
    """The medians of what the `works` took, in turns, once each was done before."""
    taken: list[list[float]] = [[] for _ in works]
    for number in range(repeats + 1):
        for times, work in zip(taken, works, strict=True):
            started = time.perf_counter()
            work()
            if number:
                times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in taken]


def main() -> None:
    """Make both workspaces, then print what each question took. What takes much memory is done in another process: a
    child counts as its own all that its parent had when it was started.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--datasets", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        one, other = Path(folder, "one"), Path(folder, "other")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
            apart.submit(large, one, given.rows).result()
            apart.submit(many, other, given.datasets).result()
            beyond = apart.submit(_questions, one, given.repeats).result()
        beyond += _commands(one, other, given.repeats)
        print(f"\nbeyond what is promised: {'; '.join(beyond) or 'nothing'}")


class Promises:
    """What was promised of figures, and which were beyond it."""

    OPENED, QUESTION, RATIO, COMMAND, LISTED, MEMORY = 0.3, 1.0, 1.2, 2.0, 1.0, 1000.0
    """Seconds to open the views, of a question in an open connection, against SQL by hand; of a command, of `quiver ls`
    over many datasets; MB of a command.
    """

    def __init__(self) -> None:
        self.beyond: list[str] = []

    def of(self, name: str, value: float, limit: float) -> str:
        """`value` was promised to be at most `limit`."""
        if value > limit:
            self.beyond.append(f"{name}: {value:.2f} of {limit:g}")
        return f"(at most {limit:g})"


def _questions(root: Path, repeats: int) -> list[str]:
    """Print what questions took; what was beyond its promise."""
    import duckdb

    from datakit.catalog.forensics import FORENSICS
    from datakit.sql import connect

    promises, started = Promises(), time.perf_counter()
    connect(root).close()
    print(f"{'views made':<32} {time.perf_counter() - started:7.3f} s")
    [opened] = seconds(repeats, lambda: connect(root).close())
    print(f"{'views opened':<32} {opened:7.3f} s {promises.of('views opened', opened, promises.OPENED)}")
    with connect(root) as ours, duckdb.connect() as theirs:
        ratios = []
        for name, (by_name, by_hand) in QUESTIONS.items():
            text = by_hand.format(root=root)
            assert name == "an answer by its words" or _same(ours.sql(by_name).fetchall(), theirs.sql(text).fetchall())
            times = seconds(repeats, partial(_all, ours, by_name), partial(_all, theirs, text))
            ratios.append(times[0] / times[1])
            promised = promises.of(name, times[0], promises.QUESTION)
            print(f"{name:<32} {times[0]:7.3f} s {promised}   by hand {times[1]:7.3f} s   ratio {ratios[-1]:5.2f}")
        mean = statistics.geometric_mean(ratios)
        print(f"{'ratio, geometric mean':<32} {mean:7.2f}   {promises.of('ratio', mean, promises.RATIO)}")
        views = f"SELECT view_name FROM duckdb_views() WHERE schema_name = '{FORENSICS}' ORDER BY 1"
        for (view,) in ours.sql(views).fetchall():
            text = f"FROM {FORENSICS}.{view}"
            print(f"{text:<32} {seconds(1, partial(_all, ours, text))[0]:7.3f} s", flush=True)
    return promises.beyond


def _all(connection: Any, text: str) -> list[Any]:
    return list(connection.sql(text).fetchall())


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two answers are equal; what is summed in another order, to nine digits."""
    return repr([[f"{v:.9g}" if isinstance(v, float) else v for v in row] for row in sorted(one)]) == repr(
        [[f"{v:.9g}" if isinstance(v, float) else v for v in row] for row in sorted(other)]
    )


def _commands(large_root: Path, many_root: Path, repeats: int) -> list[str]:
    """Print what commands took; what was beyond its promise."""
    promises = Promises()
    rewards = "rest/digits/iter={}/rewards"
    by_name = {name: ["sql", text, "--root", str(large_root)] for name, (text, _) in QUESTIONS.items()}
    of_large = {
        "ls": ["ls"],
        "show --where": ["show", rewards.format(7), "--where", "reward > 3"],
        "show --sample": ["show", rewards.format(7), "--sample", "5"],
        "why": ["why", "7-1-77", "--key", "sample_id"],
        "diff": ["diff", rewards.format(1), rewards.format(2)],
        "du": ["du"],
    }
    of_many = {
        "ls, for the first time": ["ls"],
        "ls": ["ls"],
        "sql": ["sql", "SELECT count(*) FROM datasets"],
        "du": ["du"],
        "prune": ["prune"],
    }
    (many_root / CACHE).unlink(missing_ok=True)
    print(f"\n{'a million samples: quiver ...':<32} seconds  of work  memory")
    for name, words in by_name.items():
        _command(f"sql, {name}", words, repeats, promises)
    for name, words in of_large.items():
        _command(name, [*words, "--root", str(large_root)], repeats, promises)
    print(f"\n{'many datasets: quiver ...':<32} seconds  of work  memory")
    for name, words in of_many.items():
        limit = promises.LISTED if name == "ls" else math.inf
        _command(name, [*words, "--root", str(many_root)], 0 if "first" in name else repeats, promises, limit)
    return promises.beyond


def _command(
    name: str, words: Sequence[str], repeats: int, promises: Promises, limit: float = Promises.COMMAND
) -> None:
    """Print the medians of `repeats` runs behind one that does not count; without repeats that one."""
    runs = [_run([sys.executable, "-c", "from quiver.console import main; main()", *words]) for _ in range(repeats + 1)]
    clock, work, memory = (statistics.median(one) for one in zip(*(runs[1:] or runs), strict=True))
    promised = f"{promises.of(name, clock, limit)} " if math.isfinite(limit) else ""
    promised += promises.of(f"{name}, MB", memory, promises.MEMORY)
    print(f"{name:<32} {clock:7.2f}  {work:7.2f}  {memory:4.0f} MB  {promised}")


def _run(command: Sequence[str]) -> tuple[float, float, float]:
    """Seconds on the clock, of work, and MB of the largest process; a command that fails ends the benchmark."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command[3:]} ended with {child.returncode}")
    return time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


if __name__ == "__main__":
    main()
