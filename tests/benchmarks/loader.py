"""The feed against Hugging Face datasets and torch's DataLoader: rows/s, memory, time to the first batch.

    python -m tests.benchmarks.loader [--rows 1000000] [--batches 2000] [--shards 8] [--folder FOLDER]

Both read the same Parquet shards of token rows (32 to 96 tokens), shuffle, and hand out batches of 64 rows as tensors
of tokens laid end to end. Ours verifies the SHA-256 of every shard it touches. Each launch is a process of its own:
the first finds no index (theirs: no cache), the second finds what the first left. `ready` is the time from exec until
everything is imported, `first batch` from there; CPU seconds beside them, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas import TOKENS
from schemas.dataset import Attempt, Dataset
from schemas.settings import parse

VOCABULARY, BATCH, PART = 32000, 64, 1 << 16


def stored(folder: Path, count: int, shards: int) -> None:
    """A dataset of `count` rows in `folder`/rows."""
    attempt, files = Attempt.begin(str(folder / "rows"), TOKENS), []
    for shard, numbers in enumerate(np.array_split(np.arange(count), shards)):
        with attempt.shard(shard) as writer:
            for start in range(0, len(numbers), PART):
                writer.write(table(numbers[start : start + PART]))
            files.append(writer.finish())
    attempt.commit(files)


def table(numbers: np.ndarray) -> pa.Table:
    """Rows of these numbers; token ids fall off like those of text."""
    random = np.random.default_rng(int(numbers[0]))
    offsets = np.concatenate(([0], np.cumsum(random.integers(32, 97, len(numbers))))).astype(np.int32)
    ids = np.minimum(random.zipf(1.2, offsets[-1]), VOCABULARY - 1).astype(np.int32)
    columns = [
        pa.array([f"row {number}" for number in numbers]),
        pa.ListArray.from_arrays(offsets, ids),
        pa.ListArray.from_arrays(offsets, np.ones(offsets[-1], dtype=np.int8)),
        pa.nulls(len(numbers), pa.string()),
    ]
    return pa.table(columns, names=TOKENS.names).cast(TOKENS.arrow)


def ours(folder: Path) -> Iterator[int]:
    """First nothing, when everything is imported; then the tokens of every batch."""
    from trainers import registry
    from trainers.architecture import ModelConfig
    from trainers.config import Run
    from trainers.engine.megatron.parallel import Layout
    from trainers.engine.training import build

    yield 0
    size = {"num_layers": 1, "hidden_size": 32, "ffn_hidden_size": 64, "num_attention_heads": 1, "num_query_groups": 1}
    model = ModelConfig(**size, vocab_size=VOCABULARY, max_sequence_length=128)
    data = Dataset.open(str(folder / "rows"))
    settings = {"algorithm": "sft", "data": data.url, "out": str(folder / "out"), "model": model, "max_steps": 1}
    run = parse(Run, {**settings, "optim": {"lr": 1e-4}, "global_batch_size": BATCH})
    feed = build.feed(run, data, registry.configured("sft", {})[0], model, Layout(), shuffle=True)
    for step in feed.steps(0, 1_000_000):
        yield sum(batch.num_tokens for batch in step.batches)


def theirs(folder: Path) -> Iterator[int]:
    """The same with `datasets` (memory-mapped Arrow, shuffled indices) and a DataLoader in this process."""
    import datasets
    import torch
    from torch.utils.data import DataLoader

    datasets.disable_progress_bars()

    def laid(rows: list[dict[str, Any]]) -> dict[str, Any]:
        names = ("input_ids", "loss_mask")
        return {name: torch.cat([torch.as_tensor(row[name]) for row in rows]) for name in names}

    yield 0
    files = sorted(str(path) for path in (folder / "rows").glob("*.parquet"))
    table = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(folder / "cache"))
    chosen = table.select_columns(["input_ids", "loss_mask"]).with_format("numpy")
    for batch in DataLoader(chosen, batch_size=BATCH, shuffle=True, collate_fn=laid, num_workers=0):
        yield len(batch["input_ids"])


def launch(name: str, folder: Path, batches: int) -> None:
    """One launch in this process; prints its figures as JSON."""
    import psutil

    me = psutil.Process()

    def clock() -> tuple[float, float]:
        return time.time() - me.create_time(), time.process_time()

    feed = {"ours": ours, "theirs": theirs}[name](folder)
    next(feed)
    ready = clock()
    next(feed)
    first = clock()
    tokens = sum(next(feed) for _ in range(batches))
    last = clock()
    memory = me.memory_info().rss / 1e6
    spent = [b - a for a, b in zip(first, last, strict=True)]
    figures = {"ready": ready, "first": [b - a for a, b in zip(ready, first, strict=True)], "memory": memory}
    rates = {"rows_per_second": [batches * BATCH / each for each in spent], "tokens": tokens}
    print(json.dumps({**figures, **rates}))
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    """Print a line per launch, two of each side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--folder")
    parser.add_argument("--launch", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.launch:
        launch(given.launch, Path(given.folder), given.batches)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        stored(Path(name), given.rows, given.shards)
        size = sum(path.stat().st_size for path in Path(name, "rows").glob("*.parquet"))
        print(f"{given.rows} rows in {given.shards} shards, {size / 1e6:.0f} MB", flush=True)
        command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.loader", "--folder", name]
        command += ["--batches", str(given.batches), "--launch"]
        both = importlib.util.find_spec("datasets") is not None
        if not both:
            print("theirs is skipped: datasets is not installed (pip install datasets)", flush=True)
        for side in ("ours", "theirs") if both else ("ours",):
            for number in ("first", "second"):
                done = subprocess.run([*command, side], check=True, capture_output=True, text=True)
                printed = json.loads(done.stdout.splitlines()[-1])
                pairs = {what: printed[what] for what in ("ready", "first", "rows_per_second")}
                wall, cpu = ({what: pair[at] for what, pair in pairs.items()} for at in (0, 1))
                print(
                    f"{side:6} {number:6}  ready {wall['ready']:5.2f} s ({cpu['ready']:.2f} CPU)  first batch "
                    f"{wall['first']:6.2f} s ({cpu['first']:.2f} CPU)  {wall['rows_per_second']:8.0f} rows/s "
                    f"({cpu['rows_per_second']:.0f} per CPU second)  {printed['memory']:.0f} MB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
