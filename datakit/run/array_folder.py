"""The folder in which those who wait for a job array and the tasks of that array meet, on a file system that all share.

    job              what is to be done, pickled, behind its SHA-256
    script.sh        what Slurm was given
    logs/PLACE.log   what a task says
    tasks/PLACE      the place of a task
    claims/PIECE     a link to that of the task that has taken this piece: one alone can make it
    done/PIECE       what came of it, pickled, whole or not there
    signs/PLACE      what a task is at, every second
    ask/PLACE        asks a task for the stacks of its threads, which it puts into stacks/PLACE
    alive            another number every second, as long as somebody waits

The folder is this user's own (0700), so what is unpickled here was pickled by this user: nobody else can write into it.
"""

from __future__ import annotations

import faulthandler
import os
import pickle  # noqa: TID251 - between processes of one user, as over a pipe of multiprocessing
import stat
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

from datakit.run.output import Done
from datakit.run.work import Job
from schemas.errors import IntegrityError, QuiverError
from schemas.store.ownfiles import read_verified, replace_file, replace_verified

_PARTS = ("logs", "tasks", "claims", "done", "signs", "ask", "stacks")


@dataclass(frozen=True)
class Sign:
    """What a task is at: its piece (-1: none yet), the rows done of it, and the processor time that it has used."""

    piece: int = -1
    rows: int = 0
    busy_seconds: float = 0.0


@dataclass(frozen=True)
class ArrayFolder:
    """What whoever waits and the tasks put into the folder `path`, and find there."""

    path: Path

    def begin(self, job: Job) -> None:
        """Make what is in it. Raises what pickling raises."""
        for part in _PARTS:
            (self.path / part).mkdir(mode=0o700)
        replace_verified(self.path / "job", bytes(ForkingPickler.dumps(job)))
        self.live(0)

    def job(self) -> Job:
        """What is to be done; `IntegrityError` where that is not what was written, or another user's."""
        own = os.lstat(self.path)
        if own.st_uid != os.getuid() or own.st_mode & 0o077 or not stat.S_ISDIR(own.st_mode):
            raise IntegrityError("array-folder", "a job array's folder is not its user's alone", where=str(self.path))
        try:
            job: Job = pickle.loads(read_verified(self.path / "job"))  # noqa: S301 - see above
        except ValueError as fault:
            raise IntegrityError("array-folder", "the job of a job array was changed", where=str(self.path)) from fault
        return job

    def live(self, number: int) -> None:
        """Another sign of whoever waits for the tasks, its `number`-th."""
        replace_file(self.path / "alive", str(number))

    def lives(self) -> str:
        """What was said last of that; empty where the folder is gone."""
        with suppress(OSError):
            return (self.path / "alive").read_text()
        return ""

    def claim(self, piece: int, place: str) -> bool:
        """Take a piece; False where another has it."""
        named = self.path / "tasks" / place
        if not named.exists():
            replace_file(named, place)
        try:
            os.link(named, self.path / "claims" / str(piece))  # there at once with its content, or not at all
        except FileExistsError:
            return False
        return True

    def claims(self) -> Mapping[int, str]:
        """The place of the task that took a piece, by piece."""
        return {int(path.name): path.read_text() for path in (self.path / "claims").iterdir()}

    def free(self, piece: int) -> None:
        """Give a piece back that a lost task had."""
        (self.path / "claims" / str(piece)).unlink()

    def finish(self, piece: int, came: tuple[int, list[Done] | QuiverError]) -> None:
        """Put down what came of a piece: rows, and the shards or what went wrong."""
        replace_file(self.path / "done" / str(piece), bytes(ForkingPickler.dumps(came)), durable=True)

    def finished(self, known: Collection[int]) -> Mapping[int, tuple[int, list[Done] | QuiverError]]:
        """What came of pieces besides those that are `known`."""
        names = [name for name in os.listdir(self.path / "done") if name.isdecimal() and int(name) not in known]
        return {int(name): pickle.loads((self.path / "done" / name).read_bytes()) for name in names}  # noqa: S301

    def sign(self, place: str, sign: Sign) -> None:
        """Say what a task is at."""
        replace_file(self.path / "signs" / place, f"{sign.piece} {sign.rows} {sign.busy_seconds}")

    def signs(self) -> Mapping[str, Sign]:
        """What each task was at when it said so last."""
        signs: dict[str, Sign] = {}
        for place in os.listdir(self.path / "signs"):
            with suppress(OSError, ValueError):
                piece, rows, busy = (self.path / "signs" / place).read_text().split()
                signs[place] = Sign(int(piece), int(rows), float(busy))
        return signs

    def ask(self, place: str) -> None:
        """Ask a task for its stacks."""
        (self.path / "ask" / place).touch()

    def tell_stacks(self, place: str) -> None:
        """In a task that is asked: write what all threads are at, once."""
        if (self.path / "ask" / place).exists() and not (self.path / "stacks" / place).exists():
            with open(self.path / "stacks" / f"{place}.new", "wb") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            os.replace(file.name, self.path / "stacks" / place)

    def stacks(self, place: str) -> bytes:
        """What a task has told of them; empty while it has not."""
        with suppress(OSError):
            return (self.path / "stacks" / place).read_bytes()
        return b""

    def log(self, place: str) -> Path:
        """Where a task's output goes."""
        return self.path / "logs" / f"{place}.log"
