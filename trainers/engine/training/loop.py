"""THE training loop: steps, validation, saves; it can be stopped or killed at any moment and goes on where it was.

What decides a step is its number: the rows (`feed`), the learning rate (`optim`), and the weights and moments of the
step before, which a save keeps whole. So the rest of a resumed run is bit for bit the rest of the run that was not
interrupted. SIGTERM and SIGINT let the step finish, save and end with exit code 75; a second one ends at once.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from schemas.errors import HealthError, Stopped, printable
from trainers.config import Run
from trainers.engine.checkpoint.saves import Saves
from trainers.engine.data.feed import BatchLoader, GlobalBatch
from trainers.engine.megatron import lora
from trainers.engine.reporting.report import Report, by_source
from trainers.engine.reporting.speed import Speed
from trainers.engine.reporting.trackers.tracker import Status
from trainers.engine.training import optim
from trainers.engine.training.step import Stepper
from trainers.launch import rank


@dataclass
class Loop:
    """What a run is made of once everything is built; `go` trains from step `first` to step `last`."""

    run: Run
    model: Any
    optimizer: Any
    stepper: Stepper
    feed: BatchLoader
    validation: BatchLoader | None
    saves: Saves
    speed: Speed
    leads: bool
    records: bool
    last: int

    def go(self, first: int) -> dict[str, float]:
        """Train steps `first` + 1 to `last`; the figures of the last step and of the last validation.

        Raises `Stopped` (75) after a save when a signal asked for it, `HealthError` (20) at a loss that is not finite.
        """
        span = {"first": first, "last": self.last}
        self.report = Report(self.run, self.feed, self.speed, **span, leads=self.leads, records=self.records)
        if first < self.last < (rising := self.run.optim.warmup_steps):
            lr = optim.learning_rate(self.run.optim, self.last, self.last)
            self.report.say(
                f"warning: {self.last} steps end within the warm-up of {rising}: "
                f"the rate gets to {lr:.2e} and no further"
            )
        figures: dict[str, float] = {}
        status: Status = "failed"
        try:
            waiting = time.perf_counter()
            for step in self.feed.steps(first, self.last):
                figures |= self._step(step, time.perf_counter() - waiting)
                waiting = time.perf_counter()
            self.saves.settle()
            self._tell_saves()
            if self.validation is not None and not self._validates(self.last):
                figures |= self._validate(self.last)
            status = "finished"
            return {**figures, **self.report.best}
        except Stopped:
            status = "stopped"
            raise
        finally:
            self.saves.close()
            self.report.close(status)

    def _step(self, step: GlobalBatch, waited: float) -> dict[str, float]:
        number, began, sources = step.number + 1, time.perf_counter(), self.feed.source.sources
        rank.heartbeat(f"step {number}")
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()
        rows = step.num_records if self.records else 0
        lora.at_step(self.model, number)
        outcome = self.stepper.train(step.batches, sources=len(sources), rows=rows)
        self._check(number, "loss", outcome.loss, step)
        rate = optim.learning_rate(self.run.optim, number, self.last)
        optim.set_learning_rate(self.optimizer, rate)
        _, norm, _ = self.optimizer.step()
        grad_norm = float(norm) if norm is not None else 0.0
        self._check(number, "gradient", grad_norm, step)
        figures = {"loss": outcome.loss, **by_source("loss", outcome.sources, sources), **outcome.metrics}
        learnt = {**figures, "lr": rate, "grad_norm": grad_norm}
        self.report.step(step, outcome, learnt, time.perf_counter() - began, waited)
        validated = self._validate(number) if self._validates(number) else {}
        self._save(number, outcome.stop, validated)
        return figures | validated

    def _validates(self, number: int) -> bool:
        """Every `validate_every` steps; without that at the end of every epoch."""
        every = self.run.validate_every or self.feed.steps_per_epoch
        return self.validation is not None and number % every == 0

    def _validate(self, number: int) -> dict[str, float]:
        assert self.validation is not None
        feed, sources = self.validation, self.validation.source.sources
        steps = feed.steps(0, feed.steps_per_epoch)
        rank.heartbeat(f"the validation after step {number}")
        self.model.eval()
        outcome = self.stepper.evaluate((step.batches for step in steps), sources=len(sources))
        self.model.train()
        figures = {"loss": outcome.loss, **by_source("loss", outcome.sources, sources), **outcome.metrics}
        figures = {f"val_{name}": value for name, value in figures.items()}
        self.report.validation(number, figures)
        return figures

    def _save(self, number: int, stop: bool, validated: Mapping[str, float]) -> None:
        every = self.run.save_every
        if stop:
            self.saves.settle()
        goes_on = number < self.last
        if goes_on and (stop or (every is not None and number % every == 0)):
            rank.heartbeat(f"the save of step {number}")
            self.report.before_save()
            self.saves.write(number, validated)
        if goes_on and stop:
            self.saves.settle()
        self._tell_saves()
        if goes_on and stop:
            raise Stopped(
                "stopped",
                f"stopped on request after step {number} of {self.last}",
                kept=f"the state after step {number}, in {self.saves.folder}",
                next="run the same command again",
            )

    def _tell_saves(self) -> None:
        for line in self.saves.news():
            self.report.say(line)

    def _check(self, number: int, what: str, value: float, step: GlobalBatch) -> None:
        """Raise `HealthError` unless `value` is finite; every row of the batch is named in a file."""
        if math.isfinite(value):
            return
        names = self.feed.source.names(step.rows.tolist())
        path = self.run.folder / "unhealthy.json"
        if self.leads:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"step": number, "what": what, "value": str(value), "rows": names}) + "\n")
        saved = self.saves.newest()
        raise HealthError(
            "not-finite",
            f"the {what} of step {number} is {value}; its {len(names)} rows are named in {path}",
            expected="a finite number",
            found=f"{value} on rows {', '.join(map(printable, names[:5]))}{', ...' if len(names) > 5 else ''}",
            kept=f"the state after step {saved}" if saved else "no save (none was due before)",
            next="look at these rows, or lower optim.lr",
        )


@contextmanager
def signals() -> Iterator[Callable[[], bool]]:
    """A function that tells whether SIGTERM or SIGINT has come; from then on the default handlers are back."""
    came: list[int] = []
    watched = (signal.SIGTERM, signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        for each in watched:
            signal.signal(each, signal.SIG_DFL)

    before = {each: signal.signal(each, note) for each in watched}
    try:
        yield lambda: bool(came)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
