"""`python -m pipelines.online CONFIG.json`: one rank of an online run, or its only process; exit codes as for
`trainers.run`.
"""

from __future__ import annotations

import math
from contextlib import ExitStack

from pipelines.online import config
from pipelines.online.config import OnlineRun
from pipelines.online.kept_rollouts import drop
from schemas.dataset import Dataset
from schemas.process import program
from trainers.launch import rank
from trainers.run import Planned, main_of, once


def main(arguments: list[str] | None = None) -> int:
    """Run the configuration file named on the command line; the process's exit code."""
    return main_of(arguments, "python -m pipelines.online CONFIG.json", _planned)


def _planned(path: str) -> Planned:
    online = config.read(path)
    return online.run, lambda: execute(online)


def execute(online: OnlineRun) -> None:
    """Train `online`, unless its checkpoint is there, and drop rollouts that need not stay; raises `QuiverError` for
    everything that is not our own fault.
    """
    once(online.run, lambda prompts, task_key: _train(online, prompts, task_key))
    if rank.number() == 0:
        made = (online.run.learning.max_steps or 0) // online.step.updates
        drop(online.run.paths.folder, online.keep_rollouts, made=made, needed=math.inf, warmup=online.warmup)


def _train(online: OnlineRun, prompts: Dataset, task_key: str) -> None:
    from pipelines.online.models import lineage_of
    from pipelines.online.rollouts import StepRows
    from trainers import engine

    with ExitStack() as opened:
        trainer = opened.enter_context(engine.open(online.run))
        beside = {name: opened.enter_context(engine.open(one.run)) for name, one in online.learners.items()}
        trainer.op, models = lineage_of(online)
        trainer.parents = (*trainer.parents, *models)
        rows = StepRows(online, trainer, prompts, task_key, beside)
        validate = None if online.run.paths.validation is None else rows.validate
        engine.fit(trainer, rows, validate, beside=tuple(beside.values()))


if __name__ == "__main__":
    program.run(main)
