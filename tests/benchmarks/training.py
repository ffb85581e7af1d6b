"""Training speed against Hugging Face: the same shapes, the same rows, the same process, in turns.

    python -m tests.benchmarks.training [--threads 1] [--rounds 15] [--shape tiny|small]

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
import torch

from tests.benchmarks._sides import engine, llama, stored

ROWS = {
    # vocabulary, shortest and longest row, rows of a batch
    "tiny": (64, 15, 36, 64),
    "small": (8192, 512, 513, 2),
}
LONGEST = 1024


def rows(shape: str) -> list[list[int]]:
    """Fifty batches."""
    vocabulary, least, most, batch = ROWS[shape]
    random = np.random.default_rng(0)
    return [random.integers(0, vocabulary, random.integers(least, most)).tolist() for _ in range(batch * 50)]


def ours(folder: Path, shape: str, precision: str) -> Callable[[int], tuple[float, int]]:
    vocabulary, _, _, batch = ROWS[shape]
    ids = rows(shape)
    data = stored(folder / "rows", ids, [[1] * len(row) for row in ids])
    places = {"data": data.url, "out": str(folder / "out")}
    size = {"max_steps": 50, "global_batch_size": batch, "precision": precision}
    feed, train = engine(shape, vocabulary, LONGEST, **size, **places)

    def step(number: int) -> tuple[float, int]:
        result = train(feed.step(number))
        return result.loss, result.tokens

    return step


def theirs(shape: str) -> Callable[[int], tuple[float, int]]:
    vocabulary, _, _, batch = ROWS[shape]
    model = llama(shape, vocabulary, LONGEST, attn_implementation="sdpa")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    sequences = rows(shape)

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
    parser.add_argument("--shape", choices=[*ROWS, "all"], default="all")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for shape in ROWS if chosen.shape == "all" else (chosen.shape,):
        with tempfile.TemporaryDirectory() as folder:
            sides = {"quiver": ours(Path(folder), shape, chosen.precision), "hf": theirs(shape)}
            measured: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
            for number in range(chosen.rounds + 3):
                for name, step in sides.items():
                    measured[name].append(speed(step, number % 50, chosen.threads))
        middle = {
            name: [statistics.median(values) for values in zip(*each[3:], strict=True)]
            for name, each in measured.items()
        }
        summary = "   ".join(f"{n} {1e3 * s:.1f} ms/step {t:,.0f} tokens/s" for n, (s, t) in middle.items())
        print(f"{shape}: {summary}   ratio {middle['quiver'][1] / middle['hf'][1]:.2f}")


if __name__ == "__main__":
    main()
