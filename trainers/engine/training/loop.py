"""THE training loop: steps, validation, saves; it can be stopped or killed at any moment and goes on where it was.

What decides a step is its number: the rows (`feed`), the learning rate (`optim`), and the weights and moments of the
step before, which a save keeps whole. So the rest of a resumed run is bit for bit the rest of the run that was not
interrupted. SIGTERM and SIGINT let the step finish, save and end with exit code 75; a second one ends at once.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from schemas.dataset import Dataset
from schemas.errors import HealthError, Stopped
from schemas.settings import identity_fields
from trainers.config import VERSION, Run
from trainers.engine.checkpoint import retention
from trainers.engine.checkpoint.saves import Saves
from trainers.engine.data.feed import BatchLoader, GlobalBatch
from trainers.engine.megatron import parallel
from trainers.engine.reporting.records import RecordsManifest, are_there, records_key
from trainers.engine.reporting.report import Report, by_source
from trainers.engine.reporting.speed import Speed
from trainers.engine.reporting.trackers.tracker import Status
from trainers.engine.training import build, optim
from trainers.engine.training.build import Prepared
from trainers.engine.training.trainer import Trainer
from trainers.launch import rank


def train(run: Run, data: Dataset, validation: Dataset | None, task_key: str) -> Mapping[str, float]:
    """Train `run` to its end, from its newest save if there is one, and publish the checkpoint; its last figures."""
    prepared = build.prepare(run, data, validation)
    layout = prepared.layout
    records = run.paths.records
    if records is not None:
        known_records = (records, records_key(task_key), prepared.inputs.parents)
        records = None if parallel.on_rank_zero(lambda: are_there(*known_records)) else records
    part = (prepared.algorithm, prepared.shape, layout)
    batches = build.feed(run, data, *part, shuffle=True)
    checks = None if validation is None else build.feed(run, validation, *part, shuffle=False)
    last = run.learning.max_steps or (run.learning.epochs or 0) * batches.steps_per_epoch
    with Trainer(prepared, last=last, task_key=task_key) as trainer:
        retention.check(
            run, _validated(prepared, checks), last, run.execution.validate_every or batches.steps_per_epoch
        )
        known = {"facts": prepared.facts, "tokenizer_files": prepared.tokenizer_files}
        saves = Saves(
            run, model=trainer.model, optimizer=trainer.optimizer, identity_fields=_identity_fields(prepared), **known
        )
        speed = Speed.of(run, prepared.shape, layout)
        loop = Loop(trainer, batches, checks, saves, speed, is_rank_zero=layout.rank == 0, records=records is not None)
        with signals() as asked:
            trainer.stepper.stop_asked = lambda: asked() or saves.failed
            figures = loop.go(saves.resume())
            parallel.on_rank_zero(lambda: _publish_records(prepared, loop, task_key))
            rank.heartbeat("the checkpoint")
            trainer.save(stats=figures)
            saves.finish()
    return figures


def _identity_fields(prepared: Prepared) -> dict[str, Any]:
    """What must not have changed when a run goes on from a save."""
    inputs = [parent.content_digest for parent in prepared.inputs.parents]
    return {"run": identity_fields(prepared.run.learning), "version": VERSION, "inputs": inputs}


def _validated(prepared: Prepared, checks: BatchLoader | None) -> list[str]:
    """The figures of a validation."""
    sources = () if checks is None else checks.sources
    losses = by_source("loss", dict.fromkeys(range(len(sources)), 0.0), sources)
    return [f"val_{name}" for name in ("loss", *losses, *prepared.algorithm.metrics)]


def _publish_records(prepared: Prepared, loop: Loop, task_key: str) -> None:
    """Make the dataset of what training saw, if one was asked for and is not there; on the first process."""
    run = prepared.run
    if loop.report.records is not None and run.paths.records is not None:
        op = {**run.learning.op, "name": f"{run.learning.op['name']}.records"}
        manifest = RecordsManifest(
            task_key=records_key(task_key), op=op, parents=prepared.inputs.parents, seed=run.learning.seed
        )
        loop.report.records.publish(run.paths.records, manifest)


@dataclass
class Loop:
    """What a run is made of once everything is built; `go` trains from step `first` to the trainer's last."""

    trainer: Trainer
    batches: BatchLoader
    validation: BatchLoader | None
    saves: Saves
    speed: Speed
    is_rank_zero: bool
    records: bool

    def __post_init__(self) -> None:
        assert self.trainer.last is not None, "a run knows its last step"
        self.run, self.last = self.trainer.run, self.trainer.last

    def go(self, first: int) -> dict[str, float]:
        """Train steps `first` + 1 to `last`; the figures of the last step and of the last validation.

        Raises `Stopped` (75) after a save when a signal asked for it, `HealthError` (20) at a loss that is not finite.
        """
        span = {"first": first, "last": self.last}
        columns = (self.batches.label, self.trainer.prepared.algorithm.row_metrics) if self.records else None
        self.report = Report(self.run, self.speed, **span, is_rank_zero=self.is_rank_zero, records=columns)
        self.trainer.steps = first
        if first:
            self.report.say(f"resumed at step {first}")
        if first < self.last < (rising := self.run.learning.optim.warmup_steps):
            lr = optim.learning_rate(self.run.learning.optim, self.last, self.last)
            self.report.say(
                f"warning: {self.last} steps end within the warm-up of {rising}: "
                f"the rate gets to {lr:.2e} and no further"
            )
        figures: dict[str, float] = {}
        status: Status = "failed"
        try:
            waiting = time.perf_counter()
            for step in self.batches.steps(first, self.last):
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

    def _step(self, batch: GlobalBatch, waited: float) -> dict[str, float]:
        number, began = batch.number + 1, time.perf_counter()
        try:
            done = self.trainer.step(batch, records=self.records)
        except HealthError as error:
            saved = self.saves.newest()
            error.kept = f"the state after step {saved}" if saved else "no save (none was due before)"
            raise
        self.report.step(batch, done, time.perf_counter() - began, waited)
        validated = self._validate(number) if self._validates(number) else {}
        self._save(number, done.result.stop, validated)
        return {**done.figures, **validated}

    def _validates(self, number: int) -> bool:
        """Every `validate_every` steps; without that at the end of every epoch."""
        every = self.run.execution.validate_every or self.batches.steps_per_epoch
        return self.validation is not None and number % every == 0

    def _validate(self, number: int) -> dict[str, float]:
        assert self.validation is not None
        checks, sources, trainer = self.validation, self.validation.sources, self.trainer
        steps = checks.steps(0, checks.steps_per_epoch)
        rank.heartbeat(f"the validation after step {number}")
        trainer.model.eval()
        result = trainer.stepper.evaluate((step.batches for step in steps), sources=len(sources))
        trainer.model.train()
        figures = {"loss": result.loss, **by_source("loss", result.sources, sources), **result.metrics}
        figures = {f"val_{name}": value for name, value in figures.items()}
        self.report.validation(number, figures)
        return figures

    def _save(self, number: int, stop: bool, validated: Mapping[str, float]) -> None:
        every = self.run.execution.save_every
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
                kept=f"every finished stage, and steps up to {number}: the last save, in {self.saves.folder}",
                next="run the same command again",
            )

    def _tell_saves(self) -> None:
        for line in self.saves.news():
            self.report.say(line)


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
