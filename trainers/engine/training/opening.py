"""A trainer from a run alone, as Python code opens it: its first step is due, or the one after its newest save."""

from __future__ import annotations

from contextlib import ExitStack

import torch
import torch.distributed as dist

from schemas.dataset import Dataset
from schemas.errors import ConfigError
from trainers.config import Run
from trainers.engine.megatron import parallel
from trainers.engine.training import build
from trainers.engine.training.trainer import Trainer


def open_trainer(run: Run, *, resume: bool = False) -> Trainer:
    """The trainer of `run`, ready for its first step or (with `resume`) for the one after its newest save. The rows of
    `data` are not read; what its manifest says of them goes into the checkpoint. Python's, NumPy's and torch's
    generators are seeded with `seed`.

    `ConfigError` for a schedule that falls towards a last step that nobody named.
    """
    data, validation = (
        None if place is None else Dataset.open(place) for place in (run.paths.data, run.paths.validation)
    )
    last = run.learning.num_steps(None if data is None else data.num_rows)
    if last is None and (schedule := run.learning.optim.schedule) != "constant":
        raise ConfigError(
            "no-last-step",
            f"the schedule {schedule} comes down at a last step, and epochs of unknown rows have none",
            expected="max_steps, or data",
            kept="nothing was started",
            next="give max_steps, or the schedule constant",
        )
    with ExitStack() as resources:
        resources.callback(torch.set_num_threads, torch.get_num_threads())
        if not dist.is_initialized():
            resources.callback(_leave_world)
        prepared = build.prepare(run, data, validation)
        trainer = Trainer(prepared, last=last, resources=resources.pop_all())
        resources.callback(trainer.close)
        if resume:
            trainer.resume()
        resources.pop_all()
        return trainer


def _leave_world() -> None:
    """Leave the groups of several processes, whose sizes another trainer may want otherwise. Those of a world of one
    process fit every trainer, and other networks of this process use them.
    """
    if dist.is_initialized() and dist.get_world_size() > 1:
        parallel.stop()
