"""The task that makes a checkpoint: a configuration in a file, its launch by `trainers.launch`, its figures on the
screen.

The run leads its own life: CUDA, process groups and half-used memory end with it. It saves and leaves on SIGTERM, which
reaches it when this process is asked to stop and also when this process is killed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, ClassVar

from pipelines.cli.console import Stage, say, say_of
from pipelines.graph.nodes import TrainedCheckpoint
from pipelines.runtime.tasks import Make, makes
from pipelines.runtime.training import check
from schemas.errors import counted
from schemas.run_layout import CONFIG, LOGS, METRICS, run_folder_of
from schemas.store.commit import read_manifest
from schemas.store.ownfiles import own_folder
from trainers import config
from trainers.config import Run
from trainers.launch import start
from trainers.launch.launch_result import saved_step
from trainers.launch.local import PROGRAM
from trainers.launch.rank import log_of

_RESUMED = re.compile(r"resumed at step (\d+)\n")
_DAMAGED = re.compile(r"warning: (the save of step .*)")
_BEGINNING = 1 << 20
"""Bytes of a log in which a run says what it went on from."""


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
        run = node.placed()
        folder = run.paths.folder
        own_folder(folder)
        file = folder / CONFIG
        self.write(file, node, run)
        launch, ranks = check(node)
        metrics = folder / METRICS
        resumption = Resumption(node.label, log_of(folder / LOGS, 0), saved_step(folder))
        how: dict[str, Any] = {"what": node.label, "program": self.program, "tell": say}
        started = start.prepare(file.absolute(), folder, ranks, launch, **how)
        data = read_manifest(node.data.url)
        steps = run.learning.num_steps(None if data is None else data.num_rows)
        started.run(_Follower(metrics, steps, stage, resumption))
        resumption.tell()
        manifest = read_manifest(node.url)
        assert manifest is not None, f"{node.url}: the run ended well and published nothing (logs: {folder / 'logs'})"
        figures = _last(metrics)
        return f"{counted(figures.get('step', 0), 'step')}, loss {figures.get('loss', float('nan')):.4f}"


class Resumption:
    """Says once which save a run went on from, and which it could not read: as the first rank's log has it from now on,
    for only the run that loads a save knows whether it is whole.
    """

    def __init__(self, label: str, log: Path, newest: int) -> None:
        self._label, self._log, self._newest = label, log, newest
        self._start = log.stat().st_size if log.exists() else 0

    def tell(self) -> None:
        """Say it as soon as the log does; nothing of a run that has no save."""
        if not self._newest or not self._log.exists():
            return
        with self._log.open("rb") as file:
            file.seek(self._start)
            text = file.read(_BEGINNING).decode("utf-8", "replace")
        if (resumed := _RESUMED.search(text)) is None:
            return
        for warning in _DAMAGED.findall(text[: resumed.start()]):
            say_of(self._label, f"warning: {warning}")
        newest = ", the newest save" if int(resumed[1]) == self._newest else ""
        say_of(self._label, f"resumed at step {resumed[1]}{newest}")
        self._newest = 0


class _Follower:
    """Shows how far a run is, whenever it is called."""

    def __init__(self, metrics: Path, steps: int | None, stage: Stage, resumption: Resumption) -> None:
        self.metrics, self.steps, self.stage, self.resumption = metrics, steps, stage, resumption
        self._before, self._first = _last(metrics), 0.0

    def __call__(self) -> None:
        self.resumption.tell()
        figures, before = _last(self.metrics), self._before
        if not figures or figures == before:
            return
        self._first = self._first or self.stage.seconds - float(figures.get("seconds", 0.0))
        done = int(figures["step"]) - int(before.get("step", 0))
        share = min(1.0, int(figures["step"]) / self.steps) if self.steps else None
        self.stage.move(_progress(figures, self.steps, (self.stage.seconds - self._first) / max(1, done)), share)


def _progress(figures: dict[str, Any], steps: int | None, seconds: float) -> str:
    """`seconds` are those of one step."""
    step = int(figures.get("step", 0))
    of = "" if steps is None else f" of {steps:,}"
    parts = [f"step {step:,}{of}"]
    if "loss" in figures:
        parts.append(f"loss {figures['loss']:.4f}")
    for name, words in (("reward", "reward"), ("val_reward", "held-out reward")):
        if name in figures:
            parts.append(f"{words} {figures[name]:.3f}")
    if figures.get("seconds") and "tokens" in figures:
        parts.append(f"{figures.get('tokens', 0) / figures['seconds']:,.0f} tokens/s")
    if steps and step:
        parts.append(f"{seconds * (steps - step):.0f} s left")
    return ", ".join(parts)


def last_figures(url: str) -> dict[str, Any]:
    """The last figures of the training that made the checkpoint at `url`; empty where there are none."""
    return _last(Path(run_folder_of(url), METRICS))


def _last(metrics: Path) -> dict[str, Any]:
    """The last whole line of training figures, and what the last validation made of held-out prompts; empty before the
    first step.
    """
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - 65536))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return {}
    latest: dict[str, Any] = {}
    for line in reversed(lines):
        try:
            figures = json.loads(line)
        except ValueError:
            continue
        if "loss" in figures and "loss" not in latest:
            latest |= figures
        elif "val_reward" in figures and "val_reward" not in latest:
            latest["val_reward"] = figures["val_reward"]
        if {"loss", "val_reward"} <= latest.keys():
            break
    return latest if "loss" in latest else {}
