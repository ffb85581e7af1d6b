"""Conversations to packs against TRL: chat template, token ids, packs, each as files that a second launch finds again.

    python -m tests.benchmarks.packing [--rows 20000] [--rounds 3] [--capacity 2048]

Quiver: `template.chat`, `tokenize.mask` and `tokenize.pack` as three datasets on disk. TRL: what SFTTrainer does with
the same rows before its first step (`packing=True`, best fit decreasing), on disk in the cache of `datasets`. Seconds
are CPU seconds of the process; fill is the share of the packs that holds tokens, the last pack left out; memory is the
greatest resident set.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.benchmarks._sides import apart, has_trl, llama
from tests.benchmarks.templating import chats, vocabulary

SIDES = ("quiver", "trl")


def quiver(folder: Path, capacity: int) -> dict[str, float]:
    """Three datasets."""
    import functools

    from datakit.apply import apply
    from datakit.run.resource import Resource
    from datakit.template import Chat
    from datakit.tokenize import Mask, Pack
    from datakit.tokenizers.tokenizer import Tokenizer
    from schemas import MESSAGES, Column, Schema
    from schemas.dataset import Dataset

    rows = json.loads((folder / "rows.json").read_text())
    schema = Schema(
        "chats", 1, (Column("chat_id", pa.string(), "id"), Column("messages", MESSAGES, "turns")), ("chat_id",)
    )
    table = pa.table({"chat_id": [f"{n:09}" for n in range(len(rows))], "messages": pa.array(rows, MESSAGES)})
    mine = folder / f"quiver-{os.getpid()}"
    given = Dataset.from_arrow(table.cast(schema.arrow), schema, str(mine / "chats"))
    words = {"tokenizer": Resource("words", functools.partial(Tokenizer.of_folder, str(folder)))}
    began = time.process_time()
    texts = apply(Chat(), given, str(mine / "texts"), resources=words)
    tokens = apply(Mask(id_column="chat_id"), texts, str(mine / "tokens"), resources=words)
    packs = apply(Pack(capacity=capacity, packing="best-fit-decreasing"), tokens, str(mine / "packs"))
    seconds = time.process_time() - began
    sizes = np.array([len(row) for row in packs.read().column("input_ids").to_pylist()])
    return {"seconds": seconds, **fill(sizes, capacity)}


def trl(folder: Path, capacity: int) -> dict[str, float]:
    """SFTTrainer up to its first step."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    tokenizer.pad_token = tokenizer.eos_token
    rows = Dataset.from_dict({"messages": json.loads((folder / "rows.json").read_text())})
    rows.to_parquet(folder / f"rows-{os.getpid()}.parquet")
    rows = Dataset.from_parquet(
        str(folder / f"rows-{os.getpid()}.parquet"), cache_dir=str(folder / f"cache-{os.getpid()}")
    )
    model = llama("tiny", len(tokenizer), capacity)
    given = SFTConfig(
        output_dir=str(folder / "trl"), packing=True, max_length=capacity, use_cpu=True, report_to="none", bf16=False
    )
    began = time.process_time()
    trainer = SFTTrainer(model=model, args=given, train_dataset=rows, processing_class=tokenizer)
    seconds = time.process_time() - began
    made: Any = trainer.train_dataset
    sizes = np.array([len(row) for row in made["input_ids"]])
    return {"seconds": seconds, **fill(sizes, capacity)}


def fill(sizes: np.ndarray, capacity: int) -> dict[str, float]:
    """Packs, tokens, and the share of all packs but the emptiest that holds tokens."""
    full = np.sort(sizes)[1:]
    return {"packs": len(sizes), "tokens": int(sizes.sum()), "fill": float(full.sum() / (len(full) * capacity))}


def main() -> None:
    """Print rows per second, fill and memory of both sides, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--capacity", type=int, default=2048)
    for name, kind in (("--side", str), ("--folder", Path), ("--threads", int)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        figures = (quiver if chosen.side == "quiver" else trl)(chosen.folder, chosen.capacity)
        print(json.dumps({**figures, "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
        return
    if not has_trl():
        return
    with tempfile.TemporaryDirectory(prefix="quiver-bench-") as name:
        folder, rows = Path(name), chats(chosen.rows)
        vocabulary(rows, folder)
        (folder / "rows.json").write_text(json.dumps(rows))
        taken: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _round in range(chosen.rounds):
            for side in SIDES:
                taken[side].append(apart("packing", side, 1, folder=folder, capacity=chosen.capacity))
    speeds = {side: chosen.rows / statistics.median(one["seconds"] for one in each) for side, each in taken.items()}
    for side, each in taken.items():
        one = each[-1]
        sizes = f"{one['packs']:,.0f} packs, {one['tokens']:,.0f} tokens, fill {one['fill']:.4f}, {one['MiB']:,.0f} MiB"
        print(f"{side:<7} {speeds[side]:8,.0f} rows per CPU second   {sizes}")
    print(f"quiver / trl {speeds['quiver'] / speeds['trl']:.2f}")


if __name__ == "__main__":
    main()
