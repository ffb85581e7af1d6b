"""Sampling speed against Hugging Face `generate` on the same weights, with answers of ragged length.

    python -m tests.benchmarks.sampler [tiny|small] [threads]

Both sides answer the same prompts, 16 samples each, drawn at temperature 1; the answer ends with probability
of about 1 in 8 at every token. Runs alternate; the figure is the median over the rounds of (tokens per second
here) / (there).
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from tests.trainers.networks import SMALL, llama, words
from trainers.architecture import ModelConfig
from trainers.engine.inference.generator import Generator
from trainers.engine.megatron import parallel
from trainers.engine.megatron.model import build
from trainers.parallel import Parallel

SIZES = {
    "tiny": dataclasses.replace(
        SMALL, num_layers=4, hidden_size=128, ffn_hidden_size=256, num_query_groups=4, vocab_size=96,
        max_sequence_length=128,
    ),
    "small": dataclasses.replace(
        SMALL, num_layers=8, hidden_size=256, ffn_hidden_size=1024, num_attention_heads=8, num_query_groups=4,
        vocab_size=8192, max_sequence_length=128,
    ),
}  # fmt: skip
PROMPTS = {"tiny": 128, "small": 16}
SAMPLES, LONGEST, ROUNDS = 16, 64, 5


@dataclass(frozen=True)
class Drawn:
    """16 samples at temperature 1."""

    samples_per_prompt: int = SAMPLES
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int = LONGEST
    stop: tuple[str, ...] = ()
    greedy: bool = False


def theirs(hf: torch.nn.Module, prompts: list[list[int]], ends: list[int], batch: int) -> int:
    """Tokens that `generate` drew, its left-padded batches as large as ours."""
    total = 0
    for start in range(0, len(prompts), max(1, batch // SAMPLES)):
        part = prompts[start : start + batch // SAMPLES]
        longest = max(map(len, part))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in part])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in part])
        out = hf.generate(
            ids, attention_mask=mask, do_sample=True, num_return_sequences=SAMPLES, max_new_tokens=LONGEST,
            eos_token_id=ends, pad_token_id=0, top_k=0,
        )[:, longest:]  # fmt: skip
        total += int((out != 0).sum())
    return total


def main(size: str = "tiny", threads: str = "1") -> None:
    """Print one line per round and the median."""
    torch.set_num_threads(int(threads))
    model: ModelConfig = SIZES[size]
    net = build(model, parallel.start(Parallel()), inference=True).eval()
    hf, rng = llama(net), np.random.default_rng(0)
    ends = list(range(1, model.vocab_size // 8))
    prompts = [rng.integers(1, model.vocab_size, rng.integers(8, 24)).tolist() for _ in range(PROMPTS[size])]
    rows = pa.table({"prompt_ids": pa.array(prompts, pa.list_(pa.int32()))})
    batch = 512 if size == "tiny" else 128
    ours = Generator(net, words(model.vocab_size), ends, batch_size=batch)
    ratios = []
    for turn in range(ROUNDS + 1):
        began = time.perf_counter()
        table = ours.generate(rows, Drawn(), np.arange(len(prompts), dtype=np.uint64) + np.uint64(turn))
        here = len(table["response_ids"].combine_chunks().flatten()) / (time.perf_counter() - began)
        began = time.perf_counter()
        there = theirs(hf, prompts, ends, batch) / (time.perf_counter() - began)
        if turn:  # the first round warms up
            ratios.append(here / there)
            print(f"here {here:8.0f} tokens/s   Hugging Face {there:8.0f} tokens/s   ratio {here / there:.2f}")
    print(f"{size}, batch {batch}, {threads} threads: median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
