"""A worker that hangs: silent for too long, it is asked for the stacks of its threads, and the run fails with its name.

A worker speaks when it is up and after every chunk of rows. One that works on a stream may have nothing to say for
hours, so there silence counts only while the process uses no processor time either.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from typing import Generic, TypeVar

from datakit.run.shapes import kept_by
from datakit.run.work import Job
from schemas.errors import WorkerError
from schemas.store.scratch import Scratch

DUMP_SECONDS = 5.0
START_SECONDS = 600.0
_IDLE = 0.01
"""Share of a processor below which a process counts as waiting."""


Worker = TypeVar("Worker", bound=Hashable)


class Watch(Generic[Worker]):
    """The silence of the workers of one job. `busy_seconds` is the processor time that a worker has used, as far as is
    known; `stacks` what its threads are at, as it tells when it is asked.
    """

    def __init__(self, job: Job, busy_seconds: Callable[[Worker], float], stacks: Callable[[Worker], bytes]) -> None:
        self.job, self._busy_seconds, self._stacks = job, busy_seconds, stacks
        self._last_sign: dict[Worker, tuple[float, float]] = {}
        self._began = time.monotonic()

    def progressed(self, worker: Worker) -> None:
        """A worker has sent a sign of progress."""
        if self.job.hang_seconds is not None:
            self._last_sign[worker] = (time.monotonic(), self._busy_seconds(worker))

    def check(self, busy: Mapping[Worker, int]) -> None:
        """Raise `WorkerError` for a worker that hangs; `busy` are the pieces that workers are at."""
        limit = self.job.hang_seconds
        if limit is None:
            return
        for worker, piece in busy.items():
            since, used = self._last_sign.get(worker, (self._began, 0.0))
            silent, spoke = time.monotonic() - since, worker in self._last_sign
            if silent > (limit if spoke else max(limit, START_SECONDS)) and self._waits(worker, used, silent):
                raise self._stuck(worker, piece, silent)

    def _waits(self, worker: Worker, used: float, silent: float) -> bool:
        if not self.job.streams:
            return True
        if self._busy_seconds(worker) - used <= _IDLE * silent:
            return True
        self.progressed(worker)
        return False

    def _stuck(self, worker: Worker, piece: int, silent: float) -> WorkerError:
        written = _put_away(self._stacks(worker))
        return WorkerError(
            "worker-stuck",
            f"a worker has said nothing for {silent:.0f} s while it did piece {piece} of {self.job.op.name}",
            expected="a sign of life after every chunk of rows (hang_seconds)",
            found="what its threads were at stands in the file below" if written else "silence",
            where=written,
            kept=kept_by(self.job.op),
            next="run the same command again; with a longer hang_seconds if the work is that slow",
        )


def _put_away(stacks: bytes) -> str:
    """The stacks in a new file that stays; empty where there are none."""
    if not stacks:
        return ""
    handle, path = tempfile.mkstemp(prefix="quiver-stacks-", suffix=".txt")
    with os.fdopen(handle, "wb") as file:
        file.write(stacks)
    return path


class StackFile:
    """The file at `path` to which workers of this machine write their stacks when they are asked, until `close`."""

    def __init__(self) -> None:
        self._scratch = Scratch("quiver-watch-")
        self.path = os.path.join(self._scratch.path, "stacks.txt")
        open(self.path, "x").close()

    def asked(self, pid: int) -> bytes:
        """What the process `pid` writes; empty where it does not answer."""
        with suppress(ProcessLookupError, AttributeError):
            os.kill(pid, signal.SIGUSR2)
        until = time.monotonic() + DUMP_SECONDS
        while not os.path.getsize(self.path) and time.monotonic() < until:
            time.sleep(0.1)
        with open(self.path, "rb") as file:
            return file.read()

    def close(self) -> None:
        """Remove the file and its folder."""
        self._scratch.close()


def tell_stacks(path: str) -> None:
    """In a worker: write the stacks of all threads to the file `path` on SIGUSR2; a parent that has given up meanwhile
    has removed its folder.
    """
    if path and hasattr(faulthandler, "register"):
        with suppress(FileNotFoundError):
            file = open(path, "a")  # noqa: SIM115 - for the lifetime of the process
            faulthandler.register(signal.SIGUSR2, file=file, all_threads=True)


def busy_seconds(pid: int) -> float:
    """Processor time that a process has used; grows for ever where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return time.monotonic()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
