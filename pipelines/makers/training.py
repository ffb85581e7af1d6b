"""The task that makes a checkpoint: a configuration in a file, its launch by `trainers.launch`, its figures on the
screen.

The run leads its own life: CUDA, process groups and half-used memory end with it. It saves and leaves on SIGTERM, which
reaches it when this process is asked to stop and also when this process is killed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from pipelines.graph.nodes import TrainedCheckpoint
from pipelines.runtime.console import Stage, say, say_of
from pipelines.runtime.tasks import Make, makes
from pipelines.runtime.training import check, placed
from schemas.errors import counted
from schemas.store.commit import read_manifest
from schemas.store.ownfiles import own_folder
from trainers import config
from trainers.config import Run
from trainers.launch import start
from trainers.launch.launch_result import saved_step
from trainers.launch.local import PROGRAM


@makes(TrainedCheckpoint)
class Fit(Make):
    """Makes a checkpoint: one training run, in a process of its own."""

    program: ClassVar[str] = PROGRAM
    """The module that every rank runs."""

    def write(self, file: Path, node: TrainedCheckpoint, run: Run) -> None:
        """Leave in `file` what the program reads."""
        config.write(file, run)

    def make(self, node: TrainedCheckpoint, stage: Stage) -> str:
        """The program, in one process or several; errors of the run are raised here as they are."""
        run = placed(node)
        folder = run.paths.folder
        own_folder(folder)
        file = folder / "config.json"
        self.write(file, node, run)
        launch, ranks = check(node)
        metrics = folder / "metrics.jsonl"
        if step := saved_step(folder):
            say_of(node.label, f"resumed at step {step}, the newest save")
        how: dict[str, Any] = {"what": node.label, "program": self.program, "tell": say}
        started = start.prepare(file.absolute(), folder, ranks, launch, **how)
        data = read_manifest(node.data.url)
        steps = run.learning.num_steps(None if data is None else data.num_rows)
        started.run(_Follower(metrics, steps, stage))
        manifest = read_manifest(node.url)
        assert manifest is not None, f"{node.url}: the run ended well and published nothing (logs: {folder / 'logs'})"
        figures = _last(metrics)
        return f"{counted(figures.get('step', 0), 'step')}, loss {figures.get('loss', float('nan')):.4f}"


class _Follower:
    """Shows how far a run is, whenever it is called."""

    def __init__(self, metrics: Path, steps: int | None, stage: Stage) -> None:
        self.metrics, self.steps, self.stage = metrics, steps, stage
        self._before, self._first = _last(metrics), 0.0

    def __call__(self) -> None:
        figures, before = _last(self.metrics), self._before
        if not figures or figures == before:
            return
        self._first = self._first or self.stage.seconds - float(figures.get("seconds", 0.0))
        done = int(figures["step"]) - int(before.get("step", 0))
        self.stage.move(_progress(figures, self.steps, (self.stage.seconds - self._first) / max(1, done)))


def _progress(figures: dict[str, Any], steps: int | None, seconds: float) -> str:
    """`seconds` are those of one step."""
    step = int(figures.get("step", 0))
    of = "" if steps is None else f" of {steps:,}"
    parts = [f"step {step:,}{of}"]
    if "loss" in figures:
        parts.append(f"loss {figures['loss']:.4f}")
    if "reward" in figures:
        parts.append(f"reward {figures['reward']:.3f}")
    if figures.get("seconds"):
        parts.append(f"{figures.get('tokens', 0) / figures['seconds']:,.0f} tokens/s")
    if steps and step:
        parts.append(f"{seconds * (steps - step):.0f} s left")
    return ", ".join(parts)


def _last(metrics: Path) -> dict[str, Any]:
    """The last whole line of training figures; empty before the first step."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - 65536))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        try:
            figures = json.loads(line)
        except ValueError:
            continue
        if "loss" in figures:
            return dict(figures)
    return {}
