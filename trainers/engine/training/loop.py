"""THE training loop: steps, validation, saves; it can be stopped or killed at any moment and goes on where it was.

What decides a step is its number: the rows (`feed`, `rollouts`), the learning rate (`optim`), and the weights and
moments of the step before, which a save keeps whole. So the rest of a resumed run is bit for bit the rest of the run
that was not interrupted. SIGTERM and SIGINT let the step finish, save and end with exit code 75; a second one ends at
once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from schemas.dataset import Dataset
from schemas.errors import ConfigError, HealthError, Stopped
from trainers import schedule
from trainers.config import Run
from trainers.engine.checkpoint import retention
from trainers.engine.data.feed import BatchLoader, GlobalBatch
from trainers.engine.megatron import parallel
from trainers.engine.reporting.records import RecordsManifest, are_there, records_key
from trainers.engine.reporting.report import Report, by_source
from trainers.engine.reporting.speed import Speed
from trainers.engine.reporting.trackers.tracker import Status
from trainers.engine.training import build
from trainers.engine.training.build import Prepared
from trainers.engine.training.rollouts import MakeRows, Rollouts, checked_figures
from trainers.engine.training.trainer import Trainer
from trainers.launch import rank
from trainers.launch.stop_signals import signals

Validate: TypeAlias = Callable[[int], Mapping[str, float]]
"""Figures of the weights as they stand, by name, from how many steps were made."""


def train(run: Run, data: Dataset, validation: Dataset | None, task_key: str) -> Mapping[str, float]:
    """Train `run` on `data` to its end, from its newest save if there is one, and publish the checkpoint; its last
    figures.
    """
    prepared = build.prepare(run, data, validation)
    _are_records_there(prepared, task_key)
    batches, checks = _feed(prepared, data, shuffle=True), _validation_rows(prepared)
    last = run.learning.max_steps or (run.learning.epochs or 0) * batches.steps_per_epoch
    with Trainer(prepared, last=last, task_key=task_key) as trainer:
        return fit(trainer, batches, checks)


def fit(
    trainer: Trainer,
    batches: BatchLoader | MakeRows,
    validation: BatchLoader | Validate | None = None,
    *,
    beside: Sequence[Trainer] = (),
) -> Mapping[str, float]:
    """Train to the trainer's last step and publish its checkpoint: steps, validation, saves, metrics, records, as
    `python -m trainers.run` does it; the last figures. It goes on from the newest save, unless the trainer has made
    steps already; the number of steps made is `trainer.steps`.

    batches: where they come from; or a function that is asked for the rows of each step when the step before is done
    (see `trainers.engine.training.rollouts`). validation: rows, or a function from the number of steps made to figures,
    which are reported as `val_<name>`; default: the rows that the run names. beside: trainers that these functions
    train, a critic say; they are saved with this one, go on from where they were then, and are published before it.

    Raises `Stopped` (75) after a save when a signal asked for it, `HealthError` (20) at a loss that is not finite.
    """
    prepared, run = trainer.prepared, trainer.run
    source = Rollouts(trainer, batches) if callable(batches) else batches
    checks = _validation_rows(prepared) if validation is None else validation
    assert trainer.last is not None, "a run knows its last step"
    known = None if callable(checks) else _validated(prepared, checks)
    retention.check(run, known, trainer.last, run.execution.validate_every or source.steps_per_epoch)
    records = _records_wanted(trainer)
    loop = Loop(trainer, source, checks, tuple(beside), records=records)
    with signals() as asked:
        trainer.stepper.stop_asked = lambda: asked() or trainer.saves.failed
        figures = loop.go()
        parallel.on_rank_zero(lambda: _publish_records(prepared, loop, trainer.task_key))
        rank.heartbeat("the checkpoint")
        for one in (*beside, trainer):
            one.save(stats=figures if one is trainer else None)
        trainer.saves.finish()  # first: no save of it may name one that is gone
        trainer.keep_beside(beside)
        for one in beside:
            one.saves.finish()
    return figures


def _are_records_there(prepared: Prepared, task_key: str) -> bool:
    """Whether records were asked for, and those of this very run are published; `ConflictError` where others are."""
    url = prepared.run.paths.records
    if url is None:
        return False
    return parallel.on_rank_zero(lambda: are_there(url, records_key(task_key), prepared.inputs.parents))


def _records_wanted(trainer: Trainer) -> bool:
    """Whether records are to be made; `ConfigError` where their identity would depend on rows that are yet to come."""
    if trainer.run.paths.records is not None and trainer.given_key is None:
        raise ConfigError(
            "records-key",
            "records of rows that are made step by step have no identity before these rows",
            expected="a task_key for the run",
            kept="nothing was started",
            next="give task_key, or leave out records",
        )
    return trainer.run.paths.records is not None and not _are_records_there(trainer.prepared, trainer.task_key)


def _feed(prepared: Prepared, rows: Dataset, *, shuffle: bool) -> BatchLoader:
    return build.feed(prepared.run, rows, prepared.algorithm, prepared.shape, prepared.layout, shuffle=shuffle)


def _validation_rows(prepared: Prepared) -> BatchLoader | None:
    """The rows that the run is validated on, where it names some."""
    rows = prepared.inputs.validation
    return None if rows is None else _feed(prepared, rows, shuffle=False)


def _validated(prepared: Prepared, checks: BatchLoader | None) -> list[str]:
    """The figures of a validation on rows."""
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
    """What a run is made of once everything is built; `go` trains to the trainer's last step."""

    trainer: Trainer
    batches: BatchLoader
    validation: BatchLoader | Validate | None
    beside: tuple[Trainer, ...]
    records: bool

    def __post_init__(self) -> None:
        assert self.trainer.last is not None, "a run knows its last step"
        self.run, self.last, self.saves = self.trainer.run, self.trainer.last, self.trainer.saves

    def go(self) -> dict[str, float]:
        """Train to the last step, from the newest save or where the trainer stands; the figures of the last step and of
        the last validation.
        """
        prepared, trainer = self.trainer.prepared, self.trainer
        first = trainer.steps if trainer.steps or trainer.resumed else trainer.resume(beside=self.beside)
        columns = (self.batches.label, prepared.algorithm.row_metrics) if self.records else None
        speed, is_rank_zero = Speed.of(self.run, prepared.shape, prepared.layout), prepared.layout.rank == 0
        self.report = Report(self.run, speed, first=first, last=self.last, is_rank_zero=is_rank_zero, records=columns)
        if first:
            self.report.say(f"resumed at step {first}")
        if first < self.last and (note := schedule.unfinished_warmup(self.run.learning.optim, self.last)):
            self.report.say(f"warning: {note}")
        figures: dict[str, float] = {}
        status: Status = "failed"
        try:
            waiting = time.perf_counter()
            for step in self._batches(first):
                figures |= self._step(step, time.perf_counter() - waiting)
                waiting = time.perf_counter()
            self.saves.settle()
            self._report_saves()
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

    def _batches(self, first: int) -> Iterator[GlobalBatch]:
        batches = self.batches.steps(first, self.last)
        while True:
            with self._kept():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Let an error of a run that does not get on say what there is to go on from."""
        try:
            yield
        except HealthError as error:
            saved = self.saves.folders.newest()
            error.kept = f"the state after step {saved}" if saved else "no save (none was due before)"
            raise

    def _step(self, batch: GlobalBatch, waited: float) -> dict[str, float]:
        number, began = batch.number + 1, time.perf_counter()
        with self._kept():
            done = self.trainer.step(batch, records=self.records)
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
        rank.heartbeat(f"the validation after step {number}")
        with self._kept():
            checked = self.validation(number) if callable(self.validation) else self._evaluate(self.validation)
        figures = {f"val_{name}": value for name, value in checked_figures(checked).items()}
        self.report.validation(number, figures)
        return figures

    def _evaluate(self, checks: BatchLoader) -> dict[str, float]:
        steps, sources, trainer = checks.steps(0, checks.steps_per_epoch), checks.sources, self.trainer
        trainer.model.eval()
        result = trainer.stepper.evaluate((step.batches for step in steps), sources=len(sources))
        trainer.model.train()
        return {"loss": result.loss, **by_source("loss", result.sources, sources), **result.metrics}

    def _save(self, number: int, stop: bool, validated: Mapping[str, float]) -> None:
        every = self.run.execution.save_every
        if stop:
            self.saves.settle()
        goes_on = number < self.last
        if goes_on and (stop or (every is not None and number % every == 0)):
            rank.heartbeat(f"the save of step {number}")
            self.report.before_save()
            self.trainer.save_state(validated, beside=self.beside)
        if goes_on and stop:
            self.saves.settle()
        self._report_saves()
        if goes_on and stop:
            raise Stopped(
                "stopped",
                f"stopped on request after step {number} of {self.last}",
                kept=f"every finished stage, and steps up to {number}: the last save, in {self.saves.folder}",
                next="run the same command again",
            )

    def _report_saves(self) -> None:
        for line in self.saves.news():
            self.report.say(line)
