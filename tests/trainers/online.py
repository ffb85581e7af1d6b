"""A toy online method: answers drawn from the weights as they stand, those with many tokens learnt by `sft`.

Started by torchrun as a program it plays the run undisturbed, then closed half-way and gone on with.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from schemas.settings import parse
from schemas.store.commit import read_manifest
from tests.trainers import toys
from tests.trainers.networks import louder, network, vocabulary
from tests.trainers.sampling import Sampling
from trainers import engine
from trainers.config import Run
from trainers.engine.checkpoint import checkpoint
from trainers.engine.training.trainer import Trainer

STEPS = 6
TIMES = ("seconds", "wait_seconds", "tokens_per_second", "mfu")


class Killed(BaseException):
    """What stands for kill -9 where the process must live on."""


def init(folder: Path) -> str:
    """A network with a tokenizer."""
    if not (folder / "init").exists():
        net = louder(network(**{**toys.MODEL, "window": 8}), 3.0)
        checkpoint.save(str(folder / "init"), model=net, tokenizer_files=vocabulary(toys.VOCABULARY))
    return str(folder / "init")


def a_run(folder: Path, name: str, **changes: Any) -> Run:
    """A run of six steps over rows that are yet to come."""
    torch.set_num_threads(1)
    falling = {"lr": 1e-2, "warmup_steps": 1, "schedule": "cosine", "min_lr": 1e-3}
    base = {"data": ..., "model": ..., "init": str(folder / "init"), "out": str(folder / name), "max_steps": STEPS}
    return parse(Run, toys.config(folder, **{**base, "optim": falling, "track": [], "save_every": 2, **changes}))


def rollouts(trainer: Trainer, at: Callable[[int], None] = lambda step: None) -> Callable[[int], Any]:
    """Rows by step: prompts drawn by NumPy's own generator, answers by the trainer's weights, the longest of two kept.

    `at` is called with every step first.
    """
    generator = trainer.generator(batch_size=5)

    def rows(step: int) -> tuple[pa.Table, dict[str, float]]:
        at(step)
        asked = [np.random.randint(0, toys.VOCABULARY, 4).tolist() for _ in range(6)]
        prompts = pa.table({"prompt_ids": pa.array(asked, pa.list_(pa.int32()))})
        seeds = np.arange(6, dtype=np.uint64) + np.uint64(6 * step)
        drawn = generator.generate(prompts, Sampling(samples_per_prompt=2), seeds)["response_ids"].to_pylist()
        kept = [max(drawn[2 * n], drawn[2 * n + 1], key=len) or [0] for n in range(6)]
        columns = {
            "sample_id": [f"{step}/{n}" for n in range(6)],
            "input_ids": [asked[n] + kept[n] for n in range(6)],
            "loss_mask": [[0] * 4 + [1] * len(kept[n]) for n in range(6)],
        }
        table = pa.table(columns, schema=pa.schema([toys.TOKENS.arrow.field(name) for name in columns]))
        return table, {"answer_tokens": float(np.mean([len(row) for row in kept]))}

    return rows


def die(at: int) -> Callable[[int], None]:
    """What ends a run when the rows of step `at` are asked for."""

    def check(step: int) -> None:
        if step == at:
            raise Killed

    return check


def played(run: Run, at: Callable[[int], None] = lambda step: None) -> None:
    """The run, from its newest save to its end."""
    with engine.open(run, resume=True) as trainer:
        engine.fit(trainer, rollouts(trainer, at))


def outcome(run: Run) -> dict[str, Any]:
    """All that is left of a run and does not depend on the clock."""
    manifest = read_manifest(run.paths.out)
    assert manifest is not None
    lines = [json.loads(line) for line in (run.paths.folder / "metrics.jsonl").read_text().splitlines()]
    curve = [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
    assert [line["step"] for line in curve] == list(range(1, STEPS + 1))
    facts = dict(manifest.facts)
    return {"curve": curve, "rows": toys.row_log(run.paths.folder), "facts": facts, "key": manifest.task_key}


def main() -> None:
    """In every process: whole, then closed at step 5 and gone on with from the save after step 4."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    answers = {}
    for cut, changes in {"DP2": {}, "DP2 dealt": {"parallel": {"distributed_optimizer": True}}}.items():
        whole, parted = (a_run(folder, f"{cut} {name}", **changes) for name in ("whole", "parted"))
        played(whole)
        try:
            played(parted, die(5))
        except Killed:
            saves = sorted(os.listdir(parted.paths.folder / "saves"))
        played(parted)
        answers[cut] = [outcome(whole), outcome(parted), saves]
    if os.environ["RANK"] == "0":
        out.write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
