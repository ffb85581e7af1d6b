"""What a save costs training: how long it waits, and how much slower its steps are meanwhile; at once and behind.

    python -m tests.benchmarks.saving [--millions 10] [--rounds 5] [--folder FOLDER] [--distributed-optimizer]

`stall` is the time that the loop waits in `Saves.write`, `through` that until the save is published, `step` the median
step while nothing is saved and while a save is under way.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import torch

from schemas import TOKENS
from schemas.dataset import Attempt, Dataset
from schemas.settings import parse
from trainers import registry
from trainers.architecture import ModelConfig
from trainers.config import Run
from trainers.engine.checkpoint.saves import Saves
from trainers.engine.data.feed import DatasetLoader, GlobalBatch
from trainers.engine.megatron import parallel
from trainers.engine.training import build
from trainers.engine.training.build import Trainee
from trainers.parallel import Parallel

LAYERS, VOCABULARY = 4, 8192


def shape(millions: float) -> ModelConfig:
    """A network of about so many million parameters."""
    hidden = 64
    while 2 * VOCABULARY * hidden + LAYERS * 12 * hidden**2 < millions * 1e6:
        hidden += 64
    size = {"num_layers": LAYERS, "hidden_size": hidden, "ffn_hidden_size": 8 * hidden // 3 // 64 * 64}
    heads = {"num_attention_heads": hidden // 64, "num_query_groups": hidden // 64}
    return ModelConfig(**size, **heads, vocab_size=VOCABULARY, max_sequence_length=256)


def rows(folder: Path) -> Dataset:
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (256, 128), generator=random).tolist()
    columns = {"sample_id": [f"s{i}" for i in range(256)], "input_ids": ids, "loss_mask": [[1] * 128] * 256}
    attempt = Attempt.begin(str(folder / "rows"), TOKENS)
    with attempt.shard(0) as writer:
        writer.write(pa.table({**columns, "source": pa.nulls(256, pa.string())}, schema=TOKENS.arrow))
        file = writer.finish()
    return attempt.commit([file])


def learn(learner: Trainee, step: GlobalBatch) -> float:
    """One step; its seconds."""
    began = time.perf_counter()
    learner.model.zero_grad_buffer()
    learner.optimizer.zero_grad()
    learner.stepper.train(step.batches)
    learner.optimizer.step()
    return time.perf_counter() - began


def measure(
    run: Run, learner: Trainee, feed: DatasetLoader, rounds: int
) -> Iterator[tuple[float, float, float, float]]:
    """(stall, through, step alone, step meanwhile) of every save."""
    saves = Saves(run, model=learner.model, optimizer=learner.optimizer, identity_fields={})
    steps = feed.steps(0, 10_000)
    learn(learner, next(steps))
    for number in range(1, rounds + 1):
        alone = statistics.median(learn(learner, next(steps)) for _ in range(5))
        began = time.perf_counter()
        saves.write(number, {})
        stall, meanwhile = time.perf_counter() - began, [alone]
        while saves._thread is not None and saves._thread.is_alive():
            meanwhile.append(learn(learner, next(steps)))
        saves.settle()
        yield stall, time.perf_counter() - began, alone, statistics.median(meanwhile[1:] or meanwhile)
    steps.close()  # type: ignore[attr-defined]


def main() -> None:
    """Print one line for saves at once and one for saves in the background."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--millions", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder")
    parser.add_argument("--distributed-optimizer", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sizes = Parallel(distributed_optimizer=given.distributed_optimizer)
    layout, model = parallel.start(sizes), shape(given.millions)
    algorithm, settings = registry.configured("sft", {})
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        data = rows(Path(name))
        stalls = {}
        for background in (False, True):
            settings = {"algorithm": "sft", "data": data.url, "out": f"{name}/{background}", "model": model}
            settings |= {"optim": {"lr": 1e-4}, "max_steps": 10_000, "global_batch_size": 4, "parallel": sizes}
            run = parse(Run, {**settings, "save_every": 1, "save_async": background})
            learner = build.trainee(run, algorithm, settings, layout, None)
            feed = build.feed(run, data, algorithm, model, layout, shuffle=True)
            figures = list(measure(run, learner, feed, given.rounds))
            stall, through, alone, meanwhile = (statistics.median(column) for column in zip(*figures, strict=True))
            stalls[background] = stall
            bytes_ = sum(
                file.stat().st_size for file in run.paths.folder.glob(f"saves/step-{given.rounds:08d}/**/*.distcp")
            )
            print(
                f"{'background' if background else 'at once':10}  {bytes_ / 1e6:6.0f} MB  stall {stall:6.3f} s  "
                f"through {through:6.3f} s  step {alone:6.3f} s, meanwhile {meanwhile:6.3f} s",
                flush=True,
            )
    print(f"stall at once / in the background: {stalls[False] / stalls[True]:.1f}")


if __name__ == "__main__":
    main()
