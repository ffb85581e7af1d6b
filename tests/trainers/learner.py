"""Trainers in a world of several processes; started by torchrun from `test_trainer.py`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schemas.errors import DataError
from schemas.settings import parse
from tests.trainers import toys
from tests.trainers.sampling import Sampling
from trainers import engine
from trainers.config import Run


def learnt(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """What three steps give, greedy answers of the network that they leave, and its weights."""
    run = parse(Run, toys.config(folder, **{"data": ..., "out": str(folder / name), **changes}))
    with engine.open(run) as trainer:
        figures = [trainer.learn(toys.tokens(7, seed=number)) for number in range(3)]
        prompts = toys.tokens(4, seed=9).select(["input_ids"]).rename_columns(["prompt_ids"])
        drawn = trainer.generator(batch_size=3).generate(prompts, Sampling(greedy=True), np.arange(4, dtype=np.uint64))
        again = trainer.learn(toys.tokens(7, seed=3))
        saved = trainer.save()
    ids = drawn["response_ids"].to_pylist()
    return {"figures": [*figures, again], "ids": ids, "weights": saved.facts["weights_digest"], "key": saved.task_key}


def refused(folder: Path, **changes: Any) -> list[str]:
    """What is said of rows that differ between the processes, and of rows that are wrong on all."""
    texts = []
    with engine.open(parse(Run, toys.config(folder, **{"data": ..., **changes}))) as trainer:
        for rows in (toys.tokens(3, seed=int(os.environ["RANK"])), toys.tokens(3).drop_columns(["loss_mask"])):
            try:
                trainer.learn(rows)
            except DataError as error:
                texts.append(error.slug)
    return texts


def main() -> None:
    """Every way of cutting in turn, in the same processes."""
    torch.set_num_threads(1)
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    init = {"init": str(folder / "init"), "model": ...}
    answers: dict[str, Any] = {"data": learnt(folder, "data", **init)}
    answers["dealt"] = learnt(folder, "dealt", **init, parallel={"distributed_optimizer": True})
    answers["refused"] = refused(folder, **init)
    answers["tensor"] = learnt(folder, "tensor", **init, parallel={"tensor": 2, "sequence": True})
    if os.environ["RANK"] == "0":
        out.write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
