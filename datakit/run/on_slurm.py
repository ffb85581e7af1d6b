"""Work on a Slurm cluster without Ray: the pieces of a job are done by the tasks of a job array, which take them out of
a folder that all nodes share (`datakit.run.array_folder`), as each comes up and gets on.

A task that is lost, with its process or its node, is replaced by one of another array, and what it was at is done
again: the shard that it left is written over by the same bytes, and what was paid for is found among the kept chunks.
"""

from __future__ import annotations

import itertools
import os
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from datakit.run.array_folder import ArrayFolder, Sign
from datakit.run.output import Done
from datakit.run.progress import INTERVAL, Reporter
from datakit.run.runner import not_picklable
from datakit.run.shapes import kept_by
from datakit.run.watch import DUMP_SECONDS, Watch
from datakit.run.work import Job
from schemas.errors import ConfigError, QuiverError, WorkerError, printable
from schemas.process import environment, interpreter, slurm
from schemas.store.ownfiles import own_folder, replace_file
from schemas.store.scratch import Scratch

_TASK = "datakit.run.array_task"

_RETRIES = 3
"""How often a piece is done again whose task was lost."""

_MOST = 64
"""Tasks of an array, where nobody says how many."""

_LOG_BYTES = 4096
_DONE_SECONDS = 15.0
"""So long may a shared file system take to show what a task has written that is over."""


@dataclass(frozen=True)
class OnSlurm:
    """Tasks of job arrays: `processes` of them, or for 0 as many as there are pieces, 64 at most; never more than
    `most`. They meet in `folder`, which all nodes see. Each has `gpus` GPUs. `options` are more of sbatch's, each from
    its `--` on; Slurm is asked for states every `poll_seconds`.
    """

    folder: str
    processes: int = 0
    most: int | None = None
    gpus: int = 0
    options: tuple[str, ...] = ()
    poll_seconds: float = 10.0
    name: ClassVar[str] = "slurm"

    def __post_init__(self) -> None:
        if faults := slurm.option_faults(self.options):
            raise ConfigError(
                "bad-setting", "; ".join(faults), expected="options as sbatch takes them, each from its -- on",
                where="[quiver] slurm_options", kept="nothing was started", next="sbatch --help",
            )  # fmt: skip

    def run(self, job: Job, reporter: Reporter) -> Iterator[list[Done]]:
        """The finished pieces of `job`, as they finish."""
        if job.tasks == 0:
            return
        own_folder(Path(self.folder))
        with Scratch("array-", self.folder) as path:
            arrays = _Arrays(self, ArrayFolder(Path(path)), job, reporter)
            try:
                arrays.submit(min(job.tasks, self.processes or _MOST, job.tasks if self.most is None else self.most))
                yield from arrays.pieces()
            finally:
                arrays.end()

    def script(self, folder: ArrayFolder, name: str, tasks: int) -> str:
        """What sbatch is given for an array of so many tasks."""
        options = {
            "job-name": f"quiver-{name}",
            "array": f"0-{tasks - 1}",
            "gpus": self.gpus or "",
            "output": slurm.pattern(folder.log("")).removesuffix(".log") + "%A_%a.log",
            "open-mode": "append",
            "export": ",".join(environment.names(os.environ)),
        }
        cores = "${SLURM_CPUS_PER_TASK:-1}"
        ours = {name: value for name, value in environment.ours(1).items() if name != "OMP_NUM_THREADS"}
        return slurm.script_of(
            [
                "#!/bin/bash",
                *(f"#SBATCH --{flag}={slurm.option(value)}" for flag, value in options.items() if value),
                "#SBATCH --no-requeue",
                *(f"#SBATCH {line}" for line in self.options),
                "",
                "set -euo pipefail",
                f"export OMP_NUM_THREADS={cores} POLARS_MAX_THREADS={cores}",
                *(f"export {name}={shlex.quote(value)}" for name, value in sorted(ours.items())),
                f"exec {shlex.join(interpreter.module(_TASK, str(folder.path)))}",
                "",
            ]
        )


class _Arrays:
    """The arrays of one job, what their tasks are at, and the pieces that are left."""

    def __init__(self, executor: OnSlurm, folder: ArrayFolder, job: Job, reporter: Reporter) -> None:
        self.executor, self.folder, self.job, self.reporter = executor, folder, job, reporter
        self.numbers: list[str] = []
        self.watch = Watch[str](job, lambda place: self.signs.get(place, Sign()).busy_seconds, self._stacks)
        self.signs: dict[str, Sign] = {}
        self.done: dict[int, int] = {}
        self.lost = Counter[int]()
        self._polled, self._over, self._replaced = time.monotonic(), dict[str, float](), set[str]()
        self._signs_of_life = itertools.count(1)
        try:
            folder.begin(job)
        except QuiverError:
            raise
        except Exception as fault:  # whatever a class raises that is asked for its state
            raise not_picklable(job) from fault

    def submit(self, tasks: int) -> None:
        """Hand an array of so many `tasks` to Slurm; `ServiceError` where it does not take it."""
        name = self.job.op.name
        script = self.folder.path / "script.sh"
        replace_file(script, self.executor.script(self.folder, name, tasks))
        self.numbers.append(slurm.submitted(script, name, kept_by(self.job.op)))

    def pieces(self) -> Iterator[list[Done]]:
        """The finished pieces; raises what a task tells."""
        while len(self.done) < self.job.tasks:
            self._live()
            yield from self._finished()
            self._look()
            busy = {place: sign.piece for place, sign in self.signs.items() if sign.piece not in self.done}
            self.watch.check({place: piece for place, piece in busy.items() if piece >= 0})
            if len(self.done) < self.job.tasks:
                self._poll()
                time.sleep(INTERVAL)

    def end(self) -> None:
        """End all tasks at once, whatever they are at."""
        if self.numbers:
            slurm.called("scancel", *self.numbers)

    def _live(self) -> None:
        """Let the tasks know that somebody waits: they leave where they do not hear of it for long."""
        self.folder.live(next(self._signs_of_life))

    def _finished(self) -> Iterator[list[Done]]:
        for piece, (rows, came) in sorted(self.folder.finished(self.done).items()):
            if isinstance(came, QuiverError):
                raise came
            self.done[piece] = rows
            yield came

    def _look(self) -> None:
        """Take note of what tasks say that they are at."""
        for place, sign in self.folder.signs().items():
            if place not in self._replaced and sign != self.signs.get(place):
                before, self.signs[place] = self.signs.get(place, Sign()), sign
                if (sign.piece, sign.rows) != (before.piece, before.rows):
                    self.watch.progressed(place)
        under_way = sum(sign.rows for sign in self.signs.values() if sign.piece >= 0 and sign.piece not in self.done)
        self.reporter.reach(sum(self.done.values()) + under_way)

    def _poll(self) -> None:
        """Replace tasks that Slurm has ended, or does not know any more, before they were through."""
        if time.monotonic() - self._polled < self.executor.poll_seconds:
            return
        self._polled = time.monotonic()
        name, poll = self.job.op.name, self.executor.poll_seconds
        states = {
            f"{number}_{place}": state
            for number in self.numbers
            for place, state in slurm.states_of(number, name, poll, array=True, on_wait=self._live).items()
        }
        living = [place for place, state in states.items() if state not in slurm.OVER]
        left = {p: place for p, place in self.folder.claims().items() if p not in self.done and place not in living}
        lost = [piece for piece, place in left.items() if self._is_lost(place)]
        waiting = self.job.tasks - len(self.done) - len(left)
        for piece in lost:
            self._lose(piece, left[piece], states.get(left[piece], ""))
        if lost or (not living and waiting > 0 and self._is_lost("")):
            if not lost:
                self._lose(-1, "", ", ".join(sorted(set(states.values()))))
            self.submit(max(1, len(lost)))

    def _is_lost(self, place: str) -> bool:
        """Whether a task that is over has had time to be seen to be through."""
        return time.monotonic() - self._over.setdefault(place, time.monotonic()) >= _DONE_SECONDS

    def _lose(self, piece: int, place: str, state: str) -> None:
        self.reporter.lost += 1
        self.lost[piece] += 1
        self._over.pop("", None)
        if self.lost[piece] > _RETRIES:
            raise self._died(piece, place, state)
        if piece >= 0:
            self._replaced.add(place)
            self.signs.pop(place, None)
            self.folder.free(piece)

    def _stacks(self, place: str) -> bytes:
        self.folder.ask(place)
        until = time.monotonic() + DUMP_SECONDS
        while not (stacks := self.folder.stacks(place)) and time.monotonic() < until:
            time.sleep(0.1)
        return stacks

    def _died(self, piece: int, place: str, state: str) -> WorkerError:
        log = self.folder.log(place) if place else max(self._logs(), key=os.path.getmtime, default=None)
        last = _tail(log) if log is not None else ""
        what = "before their work began" if piece < 0 else f"while they did piece {piece} of {self.job.op.name}"
        return WorkerError(
            "oom" if state == "OUT_OF_MEMORY" else "worker-died",
            f"{_RETRIES + 1} tasks of job arrays were lost {what}",
            expected="tasks that live until their work is done",
            found=printable(
                " | ".join(text for text in (state or "Slurm does not know them any more", last) if text), 400
            ),
            kept=kept_by(self.job.op),
            next="give them more time or memory ([quiver] slurm_options), then run the same command again",
        )

    def _logs(self) -> Sequence[Path]:
        return [*(self.folder.path / "logs").iterdir()]


def _tail(log: Path) -> str:
    """The last line of a log that says something."""
    try:
        lines = log.read_bytes()[-_LOG_BYTES:].decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
