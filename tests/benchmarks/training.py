"""Training speed against Hugging Face: the same shapes, the same rows, the same process, in turns.

    python tests/benchmarks/training.py [--threads 1] [--rounds 15] [--shape tiny|small]

Ours trains packed rows through the whole engine (feed, Megatron step, clipping, fused AdamW); theirs is
LlamaForCausalLM on the same batches padded to the longest row, with clipping and torch's fused AdamW. Times are CPU
seconds of the process divided by threads, which a busy machine disturbs least; the figure to read is the ratio of
medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from schemas import TOKENS
from schemas.dataset import Attempt, Dataset
from trainers import registry
from trainers.architecture import Model
from trainers.config import Optim, Run
from trainers.engine import build, parallel

SHAPES = {
    # layers, hidden, ffn, heads, groups, vocabulary, shortest and longest row, rows of a batch
    "tiny": (4, 128, 344, 4, 4, 64, 15, 36, 64),
    "small": (8, 256, 688, 8, 4, 8192, 512, 513, 2),
}


def rows(vocabulary: int, least: int, most: int, count: int) -> pa.Table:
    random = np.random.default_rng(0)
    ids = [random.integers(0, vocabulary, random.integers(least, most)).tolist() for _ in range(count)]
    columns = {
        "sample_id": [f"s{i}" for i in range(count)],
        "input_ids": ids,
        "loss_mask": [[1] * len(row) for row in ids],
        "source": pa.nulls(count, pa.string()),
    }
    return pa.table(columns, schema=TOKENS.arrow)


def stored(folder: Path, table: pa.Table) -> Dataset:
    attempt = Attempt.begin(str(folder / "rows"), TOKENS)
    with attempt.shard(0) as writer:
        writer.write(table)
        file = writer.finish()
    return attempt.commit([file])


def ours(folder: Path, shape: str, precision: str) -> Callable[[int], tuple[float, int]]:
    layers, hidden, ffn, heads, groups, vocabulary, least, most, batch = SHAPES[shape]
    data = stored(folder, rows(vocabulary, least, most, batch * 50))
    model = Model(
        num_layers=layers,
        hidden_size=hidden,
        ffn_hidden_size=ffn,
        num_attention_heads=heads,
        num_query_groups=groups,
        vocab_size=vocabulary,
        max_sequence_length=1024,
    )
    run = Run(
        algorithm="sft",
        data=data.url,
        out=str(folder / "out"),
        model=model,
        optim=Optim(lr=1e-4),
        max_steps=50,
        global_batch_size=batch,
        precision=precision,
    )
    algorithm, settings = registry.configured("sft", {})
    layout = parallel.start()
    feed = build.feed(run, data, algorithm, model, layout, shuffle=True)
    learner = build.trainee(run, algorithm, settings, layout, None)

    def step(number: int) -> tuple[float, int]:
        read = feed.step(number)
        learner.model.zero_grad_buffer()
        learner.optimizer.zero_grad()
        outcome = learner.stepper.train(read.batches)
        learner.optimizer.step()
        return outcome.loss, outcome.tokens

    return step


def theirs(shape: str) -> Callable[[int], tuple[float, int]]:
    layers, hidden, ffn, heads, groups, vocabulary, least, most, batch = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    sequences = rows(vocabulary, least, most, batch * 50)["input_ids"].to_pylist()

    def step(number: int) -> tuple[float, int]:
        chosen = sequences[number % 50 * batch : (number % 50 + 1) * batch]
        longest = max(map(len, chosen))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in chosen])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in chosen])
        labels = ids.masked_fill(mask == 0, -100)
        optimizer.zero_grad()
        whole = bool(mask.all())
        loss = model(input_ids=ids, attention_mask=None if whole else mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item(), int(mask.sum()) - len(chosen)

    return step


def speed(step: Callable[[int], tuple[float, int]], number: int, threads: int) -> tuple[float, float]:
    """Seconds and tokens per second of one step."""
    began = time.process_time()
    _, tokens = step(number)
    spent = (time.process_time() - began) / threads
    return spent, tokens / spent


def main() -> None:
    """Print one line per shape: milliseconds per step, tokens per second, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="all")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for shape in SHAPES if chosen.shape == "all" else (chosen.shape,):
        with tempfile.TemporaryDirectory() as folder:
            sides = {"quiver": ours(Path(folder), shape, chosen.precision), "hf": theirs(shape)}
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
            for number in range(chosen.rounds + 3):
                for name, step in sides.items():
                    found[name].append(speed(step, number % 50, chosen.threads))
        middle = {
            name: [statistics.median(values) for values in zip(*each[3:], strict=True)] for name, each in found.items()
        }
        told = "   ".join(f"{n} {1e3 * s:.1f} ms/step {t:,.0f} tokens/s" for n, (s, t) in middle.items())
        print(f"{shape}: {told}   ratio {middle['quiver'][1] / middle['hf'][1]:.2f}")


if __name__ == "__main__":
    main()
