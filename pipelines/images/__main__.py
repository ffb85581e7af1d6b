"""`python -m pipelines.images CONFIG.json`: one training of an image model; exit codes as for `trainers.run`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

from pipelines.graph.backend import model_at, placement_of
from pipelines.graph.opening import opener_of, planned_as
from pipelines.graph.plan import Plan
from schemas import IMAGES
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.process import program
from schemas.settings import parse
from schemas.store.commit import find_existing
from trainers.config import read_json
from trainers.images.config import ImageRun
from trainers.launch import rank
from trainers.launch.run_lock import run_lock
from trainers.run import main_of


def main(arguments: list[str] | None = None) -> int:
    """Run the configuration file named on the command line; the process's exit code."""
    return main_of(arguments, "python -m pipelines.images CONFIG.json", _planned)


def _planned(path: str) -> Any:
    run = parse(ImageRun, read_json(path), where=path)
    return run, lambda: execute(run)


def execute(run: ImageRun) -> None:
    """Train `run`, unless its checkpoint is there; raises `QuiverError` for everything that is not our own fault."""
    if run.paths.data is None or run.paths.task_key is None:
        raise ConfigError("no-data", "the run has no data, or no task_key", kept="nothing was started")
    data, task_key = Dataset.open(run.paths.data), run.paths.task_key
    with nullcontext() if rank.one_of_many() else run_lock(run.paths.folder):
        if find_existing(run.paths.out, task_key, "checkpoint", [data.as_parent("data")]) is not None:
            print(f"{run.paths.out} is already finished", file=sys.stderr)
            return
        from trainers.images import loop

        loop.train(run, data, reward_of(run), task_key)


def reward_of(run: ImageRun) -> Any:
    """What rewards images, opened by the backend of its reference."""
    node = planned_as(model_at(Plan(str(run.paths.folder)), run.reward, "image_scorer"), run.reward_identity)
    scorer: Any = opener_of(node, "image_scorer", IMAGES.selecting("prompt", "image"), placement_of(node))()
    return scorer.reward


if __name__ == "__main__":
    program.run(main)
