"""One task of a job array: python -m datakit.run.array_task FOLDER

It opens the resources once, takes one free piece after another, and leaves when there is none, or when nobody waits for
it any more: then whoever started the array is gone, and its attempt with it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from datakit.run.array_folder import ArrayFolder, Sign
from datakit.run.output import Done
from datakit.run.resource import close_all, open_all
from datakit.run.runner import asked_ahead, share_cores
from datakit.run.shapes import failed
from datakit.run.work import Job, work
from schemas.errors import QuiverError
from schemas.process import program

_SIGN_SECONDS = 1.0
_ALONE_SECONDS = 180.0
"""So long may nobody say that he waits: file systems of clusters show what others wrote some time later."""


class _Task:
    """This task: its place in the array, and what it is at."""

    def __init__(self, folder: ArrayFolder, place: str) -> None:
        self.folder, self.place = folder, place
        self.piece, self.rows = -1, 0

    def advance(self, rows: int) -> None:
        self.rows += rows

    def watch(self) -> None:
        """Say every second what it is at, and end the process where nobody waits."""
        known, since = "", time.monotonic()
        while True:
            with suppress(OSError, QuiverError):
                self.folder.sign(self.place, Sign(self.piece, self.rows, time.process_time()))
                self.folder.tell_stacks(self.place)
            if (now := self.folder.lives()) and now != known:
                known, since = now, time.monotonic()
            elif not self.folder.path.exists() or time.monotonic() - since > _ALONE_SECONDS:
                os._exit(1)
            time.sleep(_SIGN_SECONDS)

    def work(self, job: Job) -> None:
        """Piece after piece; one that fails is the last."""
        opened: dict[str, object] | None = None
        try:
            for piece in range(job.tasks):
                if self.folder.claim(piece, self.place):
                    self.piece, self.rows = piece, 0
                    opened = open_all(job.resources) if opened is None else opened
                    done = self._done(job, piece, opened)
                    self.folder.finish(piece, (self.rows, done))
        except QuiverError as fault:
            self.folder.finish(self.piece, (0, fault))
        except Exception as fault:
            self.folder.finish(self.piece, (0, failed(job.op, fault, "a task", job.chunks.url)))
        finally:
            close_all(opened or {})

    def _done(self, job: Job, piece: int, opened: dict[str, object]) -> list[Done]:
        asked = asked_ahead(job, opened, self.advance, [piece])
        try:
            return work(job, piece, opened, self.advance, asked=asked)
        finally:
            if asked is not None:
                asked.close()


def main(arguments: Sequence[str]) -> int:
    """Work on the array in the folder `arguments[0]`; the place in it is Slurm's."""
    folder = ArrayFolder(Path(arguments[0]))
    variables = os.environ
    task = _Task(folder, f"{variables['SLURM_ARRAY_JOB_ID']}_{variables['SLURM_ARRAY_TASK_ID']}")
    threading.Thread(target=task.watch, name="quiver-signs", daemon=True).start()
    share_cores(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    task.work(folder.job())
    return 0


if __name__ == "__main__":
    program.run(lambda: main(sys.argv[1:]))
