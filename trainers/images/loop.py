"""The loop of a run over image prompts: steps, saves, figures, records; it can be stopped or killed at any moment.

What decides a step is its number: the prompts (an order for every epoch), the seed of each image, the learning rate,
and the weights, moments and average of the step before, which a save keeps whole.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from schemas.canonical import plain
from schemas.dataset import Dataset
from schemas.errors import DataError, Stopped
from schemas.manifest import Parent
from schemas.run_layout import METRICS, RECORDS, RUN_END
from trainers.engine.reporting import report as reporting
from trainers.engine.reporting.metrics import Journal, Progress
from trainers.engine.reporting.records import Records, RecordsManifest, are_there, records_key
from trainers.engine.reporting.trackers.tracker import Facts, Status, Trackers
from trainers.images.config import ImageRun
from trainers.images.reward import Reward
from trainers.images.trainer import ROW_METRICS, ImageStep, ImageTrainer, claims_of, prompts_of
from trainers.launch import rank
from trainers.launch.stop_signals import signals


def train(run: ImageRun, data: Dataset, reward: Reward, task_key: str, inputs: Sequence[Parent] = ()) -> None:
    """Train `run` on the prompts of `data` to its end, from its newest save if there is one, and publish adapters and
    records. Raises `Stopped` (75) after a save when a signal asked for it, `HealthError` (20) at a number that is not
    finite.
    """
    rows = data.read(columns=["prompt_id", "prompt"]).to_pydict()
    if not rows["prompt_id"]:
        raise DataError("no-rows", "there are no prompts to learn from", where=data.url, kept="nothing was started")
    parents = (data.as_parent("data"), *inputs)
    with ImageTrainer(run, reward, inputs=parents) as trainer, signals() as asked:
        first = trainer.resume()
        record = run.paths.records if not _recorded(run, task_key, parents) else None
        report = _Report(run, first, records=record is not None)
        status: Status = "failed"
        figures: dict[str, float] = {}
        try:
            if first:
                report.say(f"resumed at step {first}")
            for number in range(first + 1, run.learning.max_steps + 1):
                figures = _step(trainer, report, rows, number)
                _save(trainer, report, number, asked())
            if record is not None and report.records is not None:
                op = {**run.learning.op, "name": f"{run.learning.op['name']}.records"}
                given: dict[str, Any] = {"op": op, "parents": parents, "seed": run.learning.seed}
                report.records.publish(record, RecordsManifest(task_key=records_key(task_key), **given))
            rank.heartbeat("the checkpoint")
            trainer.save(claims_of(run, task_key, parents, {**figures, "steps": trainer.steps}))
            trainer.saves.finish()
            status = "finished"
        except Stopped:
            status = "stopped"
            raise
        finally:
            report.close(status)


def seed_of(seed: int, epoch: int, prompt_id: str) -> int:
    """The seed of the image that is drawn of a prompt in an epoch."""
    text = f"{seed}\x1ftrained\x1f{epoch}\x1f{prompt_id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _recorded(run: ImageRun, task_key: str, parents: Sequence[Parent]) -> bool:
    return run.paths.records is None or are_there(run.paths.records, records_key(task_key), parents)


def _step(trainer: ImageTrainer, report: _Report, rows: Mapping[str, list[str]], number: int) -> dict[str, float]:
    learning, began = trainer.learning, time.perf_counter()
    size, count = learning.global_batch_size, len(rows["prompt_id"])
    places = prompts_of(number - 1, size, count, learning.seed)
    names = [rows["prompt_id"][place] for place, _ in places]
    seeds = [seed_of(learning.seed, epoch, name) for name, (_, epoch) in zip(names, places, strict=True)]
    done = trainer.step([rows["prompt"][place] for place, _ in places], seeds)
    report.step(number, names, [epoch for _, epoch in places], done, time.perf_counter() - began)
    return done.figures


def _save(trainer: ImageTrainer, report: _Report, number: int, stop: bool) -> None:
    every, last = trainer.run.execution.save_every, trainer.learning.max_steps
    if number == last or not (stop or (every is not None and number % every == 0)):
        return
    rank.heartbeat(f"the save of step {number}")
    report.before_save()
    trainer.save_state()
    report.say(f"saved step {number}")
    if stop:
        raise Stopped(
            "stopped",
            f"stopped on request after step {number} of {last}",
            kept=f"every finished stage, and steps up to {number}: the last save, in {trainer.saves.folder}",
            next="run the same command again",
        )


class _Report:
    """What a run tells while it runs: a line on stderr, `metrics.jsonl`, trackers, and records of every image."""

    def __init__(self, run: ImageRun, first: int, *, records: bool) -> None:
        self.run, self.last, folder = run, run.learning.max_steps, run.paths.folder
        self.metrics, self.progress = Journal(folder / METRICS, first), Progress(first, self.last)
        self.records = Records(folder / RECORDS, "prompt_id", ROW_METRICS, first) if records else None
        settings = reporting.dotted(plain(run))
        facts = Facts(folder.name.removesuffix(RUN_END), folder, settings, first, self.metrics.last_written)
        known = reporting.all_trackers()
        self.trackers = Trackers([known[name]() for name in run.execution.track], facts, self.say)

    def step(self, number: int, names: Sequence[str], epochs: Sequence[int], done: ImageStep, seconds: float) -> None:
        """A step is done; it took `seconds`."""
        figures = {**done.figures, "lr": done.lr, "grad_norm": done.grad_norm, "rows": len(names)}
        figures["seconds"] = round(seconds, 6)
        self.progress.step(number, figures)
        if number % self.run.execution.log_every == 0 or number == self.last:
            self.metrics.write({"step": number, "epoch": epochs[-1], **figures})
            self.trackers.log(number, {"epoch": epochs[-1], **figures})
        if self.records is not None:
            rows_R5 = np.insert(done.rows, 1, 1.0, axis=1)  # the loss is counted once for each image
            for epoch in sorted(set(epochs)):
                own = [place for place, one in enumerate(epochs) if one == epoch]
                self.records.add(number, epoch, [names[place] for place in own], None, rows_R5[own])

    def before_save(self) -> None:
        """Put on disk what must not be reported again after a save."""
        self.metrics.record_digest()
        if self.records is not None:
            self.records.flush()

    def say(self, text: str) -> None:
        """Print a line that the progress line does not overwrite."""
        self.progress.say(text)

    def close(self, status: Status) -> None:
        """There will be no step more."""
        self.trackers.close(status)
        self.metrics.close()
