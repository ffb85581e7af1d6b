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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from schemas.errors import HealthError, Stopped, printable
from trainers.config import Run
from trainers.engine import optim
from trainers.engine.feed import Feed, Step
from trainers.engine.metrics import Journal, Progress
from trainers.engine.saves import Saves
from trainers.engine.step import Outcome, Stepper


@dataclass
class Loop:
    """What a run is made of once everything is built; `go` trains from step `first` to step `last`."""

    run: Run
    model: Any
    optimizer: Any
    stepper: Stepper
    feed: Feed
    validation: Feed | None
    saves: Saves
    leads: bool
    last: int

    def go(self, first: int) -> dict[str, float]:
        """Train steps `first` + 1 to `last`; the figures of the last step and of the last validation.

        Raises `Stopped` (75) after a save when a signal asked for it, `HealthError` (20) at a loss that is not finite.
        """
        self._open(first)
        figures: dict[str, float] = {}
        try:
            with _signals() as asked:
                self.stepper.stop_asked = asked
                for step in self.feed.steps(first, self.last):
                    figures |= self._step(step)
            if self.validation is not None and not self._validates(self.last):
                figures |= self._validate(self.last)
            return figures
        finally:
            for journal in (self._metrics, self._rows):
                journal.close()

    def _open(self, first: int) -> None:
        folder = self.run.folder
        self._metrics = Journal(folder / "metrics.jsonl" if self.leads else None, first)
        self._rows = Journal(folder / "rows.jsonl" if self.leads and self.run.log_rows else None, first)
        self._progress = Progress(first, self.last) if self.leads else None

    def _step(self, step: Step) -> dict[str, float]:
        number, began = step.number + 1, time.perf_counter()
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()
        outcome = self.stepper.train(step.batches)
        self._check(number, "loss", outcome.loss, step)
        rate = optim.learning_rate(self.run.optim, number, self.last)
        optim.set_learning_rate(self.optimizer, rate)
        _, norm, _ = self.optimizer.step()
        grad_norm = float(norm) if norm is not None else 0.0
        self._check(number, "gradient", grad_norm, step)
        figures = {"loss": outcome.loss, **outcome.metrics}
        self._tell(step, outcome, {**figures, "lr": rate, "grad_norm": grad_norm}, time.perf_counter() - began)
        if self._validates(number):
            figures |= self._validate(number)
        self._save(number, outcome.stop)
        return figures

    def _tell(self, step: Step, outcome: Outcome, figures: Mapping[str, float], seconds: float) -> None:
        number = step.number + 1
        if self._progress is None:
            return
        self._progress.step(number, outcome.loss, outcome.tokens)
        if number % self.run.log_every == 0 or number == self.last:
            counts = {"rows": len(step.rows), "tokens": outcome.tokens, "seconds": round(seconds, 6)}
            self._metrics.write({"step": number, "epoch": step.epoch, **figures, **counts})
        if self.run.log_rows:
            self._rows.write({"step": number, "rows": self.feed.source.names(step.rows.tolist())})

    def _validates(self, number: int) -> bool:
        every = self.run.validate_every
        return self.validation is not None and every is not None and number % every == 0

    def _validate(self, number: int) -> dict[str, float]:
        assert self.validation is not None
        feed = self.validation
        self.model.eval()
        outcome = self.stepper.evaluate(step.batches for step in feed.steps(0, feed.steps_per_epoch))
        self.model.train()
        figures = {f"val_{name}": value for name, value in {"loss": outcome.loss, **outcome.metrics}.items()}
        self._metrics.write({"step": number, **figures})
        if self._progress is not None:
            self._progress.say(f"step {number}/{self.last}  validation loss {outcome.loss:.4f}")
        return figures

    def _save(self, number: int, stop: bool) -> None:
        every = self.run.save_every
        if number == self.last or not (stop or (every is not None and number % every == 0)):
            return
        self.feed.settle()
        self.saves.write(number)
        if stop:
            raise Stopped(
                "stopped",
                f"stopped on request after step {number} of {self.last}",
                kept=f"the state after step {number}, in {self.saves.folder}",
                next="run the same command again",
            )

    def _check(self, number: int, what: str, value: float, step: Step) -> None:
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
def _signals() -> Iterator[Any]:
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
