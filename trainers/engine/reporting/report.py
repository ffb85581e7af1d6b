"""All that a run tells while it runs, on its first process: progress, journals, trackers, and the records of its rows.

A step's line in `metrics.jsonl` holds what was learnt (`loss`, `loss/<source>`, the algorithm's metrics, `lr`,
`grad_norm`) and what it took: `seconds` of work, `wait_seconds` for data, `tokens` read and those per second,
`padding`, and `mfu` where the device's peak is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.canonical import plain
from schemas.run_layout import METRICS, RECORDS, ROWS, RUN_END
from trainers.config import Run
from trainers.engine.data.feed import GlobalBatch
from trainers.engine.reporting import trackers
from trainers.engine.reporting.metrics import Journal, Progress
from trainers.engine.reporting.records import Records
from trainers.engine.reporting.results import TrainedStep
from trainers.engine.reporting.speed import Speed
from trainers.engine.reporting.trackers.tracker import Facts, Status, Tracker, Trackers

_NAME = 80
"""Characters of a source that stand in the name of its figure."""


def all_trackers() -> dict[str, type[Tracker]]:
    """The trackers by name, read off the re-exports of `trainers.engine.reporting.trackers`."""
    kinds: list[type[Tracker]] = [value for value in vars(trackers).values() if isinstance(value, type)]
    return {tracker.name: tracker for tracker in sorted(kinds, key=lambda tracker: tracker.name)}


def by_source(figure: str, losses: Mapping[int, float], sources: Sequence[str]) -> dict[str, float]:
    """`<figure>/<source>` of every source that was seen; the place behind names that begin alike, "~" between."""
    short = [source[:_NAME] for source in sources]
    often = Counter(short)
    names = [name if often[name] == 1 else f"{name}~{place}" for place, name in enumerate(short)]
    return {f"{figure}/{names[place]}": loss for place, loss in losses.items()}


class Report:
    """What the first process tells of the steps after `first`; on the others nothing comes of it.

    `records`: what rows are called and which figures of each there are, where records of them were asked for.
    """

    def __init__(
        self,
        run: Run,
        speed: Speed,
        *,
        first: int,
        last: int,
        is_rank_zero: bool,
        records: tuple[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.run, self.speed, self.last, self.is_rank_zero = run, speed, last, is_rank_zero
        folder = run.paths.folder
        self.metrics = Journal(folder / METRICS if is_rank_zero else None, first, best_by=run.execution.best_by)
        self.rows = Journal(folder / ROWS if is_rank_zero and run.execution.log_rows else None, first)
        self.progress = Progress(first, last) if is_rank_zero else None
        self.records = None
        if is_rank_zero and records is not None:
            self.records = Records(folder / RECORDS, *records, first)
            for start, stop in self.records.missing:
                self.say(f"warning: there will be no records of steps {start} to {stop}: the run went without them")
        facts = Facts(folder.name.removesuffix(RUN_END), folder, dotted(plain(run)), first, self.metrics.last_written)
        named = all_trackers()
        self.trackers = Trackers([named[name]() for name in run.execution.track if is_rank_zero], facts, self.say)

    def step(self, batch: GlobalBatch, done: TrainedStep, seconds: float, waited: float) -> None:
        """A step is done; it took `seconds` and before that `waited` for its rows."""
        if self.progress is None:
            return
        number, result = batch.number + 1, done.result
        figures: dict[str, float] = {**batch.figures, **done.figures, "lr": done.lr, "grad_norm": done.grad_norm}
        figures |= {"rows": len(batch.rows), "tokens": result.tokens}
        figures |= {"seconds": round(seconds, 6), "wait_seconds": round(waited, 6)}
        figures |= self.speed.figures(result, seconds + waited)
        self.progress.step(number, figures)
        if number % self.run.execution.log_every == 0 or number == self.last:
            self.metrics.write({"step": number, "epoch": batch.epoch, **figures})
            self.trackers.log(number, {"epoch": batch.epoch, **figures})
        if self.run.execution.log_rows:
            self.rows.write({"step": number, "rows": batch.names()})
        if self.records is not None:
            self.records.add(number, batch.epoch, *batch.labels(), result.rows_RN)

    def validation(self, number: int, figures: Mapping[str, float]) -> None:
        """The figures of a validation after step `number`."""
        self.metrics.write({"step": number, **figures})
        self.trackers.log(number, figures)
        shown = {name: figures[name] for name in ("val_loss",) if name in figures} or figures
        parts = (f"{name.removeprefix('val_')} {value:.4f}" for name, value in shown.items())
        self.say(f"step {number}/{self.last}  validation {'  '.join(parts)}")

    @property
    def best(self) -> dict[str, float]:
        """The best `best_by` of the run and its step: on the first process, which alone knows all."""
        if self.metrics.best is None:
            return {}
        value, step = self.metrics.best
        return {f"best_{self.metrics.best_by}": value, "best_step": step}

    def before_save(self) -> None:
        """Put on disk what must not be reported again after a save, and what the figures before it are."""
        for journal in (self.metrics, self.rows):
            journal.record_digest()
        if self.records is not None:
            self.records.flush()

    def close(self, status: Status) -> None:
        """The last step is done, or there will be none."""
        self.trackers.close(status)
        for journal in (self.metrics, self.rows):
            journal.close()

    def say(self, text: str) -> None:
        """Print a line, on the first process only."""
        if self.progress is not None:
            self.progress.say(text)


def dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under the paths by which trackers show them."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
