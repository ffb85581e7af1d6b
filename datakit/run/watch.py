"""A worker that hangs: silent for too long, it is asked for the stacks of its threads, and the run fails with its name.

A worker speaks when it is up and after every chunk of rows. One that works on a stream may have nothing to say for
hours, so there silence counts only while the process uses no processor time either.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress

from datakit.run.shapes import kept_by
from datakit.run.work import Job
from schemas.errors import WorkerError
from schemas.store.scratch import Scratch

_DUMP_SECONDS = 5.0
_START_SECONDS = 600.0
_IDLE = 0.01
"""Share of a processor below which a process counts as waiting."""


class Watch:
    """The silence of the workers of one job; `stacks` is the file to which they write when they are asked."""

    def __init__(self, job: Job) -> None:
        self.job, self.stacks = job, ""
        self._last_sign: dict[int, tuple[float, float]] = {}
        self._began = time.monotonic()
        if job.hang_seconds is not None:
            self._scratch = Scratch("quiver-watch-")
            self.stacks = os.path.join(self._scratch.path, "stacks.txt")
            open(self.stacks, "x").close()

    def progressed(self, pid: int | None) -> None:
        """A worker has sent a sign of progress."""
        if self.job.hang_seconds is not None and pid is not None:
            self._last_sign[pid] = (time.monotonic(), _busy_seconds(pid))

    def check(self, busy: Mapping[int | None, int]) -> None:
        """Raise `WorkerError` for a worker that hangs; `busy` are the pieces that processes work on, by pid."""
        limit = self.job.hang_seconds
        if limit is None:
            return
        for pid, piece in busy.items():
            if pid is None:
                continue
            since, used = self._last_sign.get(pid, (self._began, 0.0))
            silent, spoke = time.monotonic() - since, pid in self._last_sign
            if silent > (limit if spoke else max(limit, _START_SECONDS)) and self._waits(pid, used, silent):
                raise self._stuck(pid, piece, silent)

    def close(self) -> None:
        """Remove the file of stacks that workers write to; `_stuck` has put away what is reported."""
        if self.stacks:
            self._scratch.close()

    def _waits(self, pid: int, used: float, silent: float) -> bool:
        if not self.job.streams:
            return True
        now = _busy_seconds(pid)
        if now - used <= _IDLE * silent:
            return True
        self.progressed(pid)
        return False

    def _stuck(self, pid: int, piece: int, silent: float) -> WorkerError:
        with suppress(ProcessLookupError, AttributeError):
            os.kill(pid, signal.SIGUSR2)
        until = time.monotonic() + _DUMP_SECONDS
        while not os.path.getsize(self.stacks) and time.monotonic() < until:
            time.sleep(0.1)
        written = self._put_away()
        return WorkerError(
            "worker-stuck",
            f"a worker has said nothing for {silent:.0f} s while it did piece {piece} of {self.job.op.name}",
            expected="a sign of life after every chunk of rows (hang_seconds)",
            found="what its threads were at stands in the file below" if written else "silence",
            where=written,
            kept=kept_by(self.job.op),
            next="run the same command again; with a longer hang_seconds if the work is that slow",
        )

    def _put_away(self) -> str:
        """The stacks in a new file that stays; empty where none were written."""
        if not os.path.getsize(self.stacks):
            return ""
        handle, path = tempfile.mkstemp(prefix="quiver-stacks-", suffix=".txt")
        with os.fdopen(handle, "wb") as file, open(self.stacks, "rb") as stacks:
            shutil.copyfileobj(stacks, file)
        return path


def tell_stacks(path: str) -> None:
    """In a worker: write the stacks of all threads to the file `path` on SIGUSR2; a parent that has given up meanwhile
    has removed its folder.
    """
    if path and hasattr(faulthandler, "register"):
        with suppress(FileNotFoundError):
            file = open(path, "a")  # noqa: SIM115 - for the lifetime of the process
            faulthandler.register(signal.SIGUSR2, file=file, all_threads=True)


def _busy_seconds(pid: int) -> float:
    """Processor time that a process has used; grows for ever where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return time.monotonic()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
