"""Conversations to packs against TRL: chat template, token ids, packs, each as files that a second launch finds again.

    python -m tests.benchmarks.packing [--rows 20000] [--rounds 3] [--capacity 2048] [--keep tests/results/costs.json]

Quiver: `template.chat`, `tokenize.mask` and `tokenize.pack` as three datasets on disk. TRL: what SFTTrainer does with
the same rows before its first step (`packing=True`, best fit decreasing), on disk in the cache of `datasets`. Seconds
are CPU seconds of the process and its children; fill is the share of the packs that holds tokens, the emptiest left
out; memory is the greatest resident set. A ratio is of one round, every second of which has the other order.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.benchmarks._sides import apart, cpu_seconds, has_trl, in_turns, keep, llama, middle, peak_mib, ratios
from tests.benchmarks.templating import chats, vocabulary

SIDES = ("quiver", "trl")


def quiver(folder: Path, capacity: int) -> dict[str, float]:
    """Three datasets."""
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
    began = cpu_seconds()
    texts = apply(Chat(), given, str(mine / "texts"), resources=words)
    tokens = apply(Mask(id_column="chat_id"), texts, str(mine / "tokens"), resources=words)
    packs = apply(Pack(capacity=capacity, packing="best-fit-decreasing"), tokens, str(mine / "packs"))
    seconds = cpu_seconds() - began
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
    began = cpu_seconds()
    trainer = SFTTrainer(model=model, args=given, train_dataset=rows, processing_class=tokenizer)
    seconds = cpu_seconds() - began
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
    parser.add_argument("--keep", type=Path, help="JSON file that the figures go into")
    for name, kind in (("--side", str), ("--folder", Path), ("--threads", int)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        figures = (quiver if chosen.side == "quiver" else trl)(chosen.folder, chosen.capacity)
        print(json.dumps({**figures, "MiB": peak_mib()}))
        return
    if not has_trl():
        return
    with tempfile.TemporaryDirectory(prefix="quiver-bench-") as name:
        folder, rows = Path(name), chats(chosen.rows)
        vocabulary(rows, folder)
        (folder / "rows.json").write_text(json.dumps(rows))
        measure = functools.partial(apart, "packing", threads=1, folder=folder, capacity=chosen.capacity)
        taken = in_turns(chosen.rounds, SIDES, measure)
    for side, each in taken.items():
        one, speeds = each[-1], [chosen.rows / figures["seconds"] for figures in each]
        sizes = f"{one['packs']:,.0f} packs, {one['tokens']:,.0f} tokens, fill {one['fill']:.4f}, {one['MiB']:,.0f} MiB"
        print(f"{side:<7} {middle(speeds, ',.0f')} rows per CPU second   {sizes}")
    print(f"quiver / trl {middle(ratios(taken, 'trl'))}")
    keep(chosen.keep, "packing", f"conversations to packs of {chosen.capacity:,}, {chosen.rows:,} rows", taken)


if __name__ == "__main__":
    main()
