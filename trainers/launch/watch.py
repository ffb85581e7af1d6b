"""Waits for a run and its ranks: sees who failed, died or is stuck, ends all the others, and says what went wrong.

One child is watched (the run itself, `spawn`, or srun), and the presence files of its ranks. A rank is stuck when its
count has not changed for `hang_seconds` of this process's own clock. Then every rank on this host is asked for the
stacks of its threads, which go to its log file, and all are ended.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from schemas.run_layout import LAUNCHER_LOG, LOGS
from schemas.store.ownfiles import own_folder
from trainers.launch.child import Family, start_child
from trainers.launch.launch_result import FinishedLaunch, Observations, launch_result
from trainers.launch.local import MEETING
from trainers.launch.rank_status import RankStatus, read_all
from trainers.launch.run_lock import run_lock
from trainers.launch.settings import Launch

POLL_SECONDS = 0.2
_FAULT_GRACE = 5.0
_REPORT_SECONDS = 3.0
_DUMP_SECONDS = 0.7


@dataclass
class RunFolder:
    """The files that the launch of a run keeps in the folder `path`. `key` tells one start from another."""

    path: Path
    key: str = field(default_factory=lambda: os.urandom(6).hex())

    @property
    def logs(self) -> Path:
        """Log files: one for each rank, and the launcher's own."""
        return self.path / LOGS

    @property
    def launcher_log(self) -> Path:
        """What `spawn`, srun or a process that could not even start said."""
        return self.logs / LAUNCHER_LOG

    @property
    def ranks(self) -> Path:
        """Presence files of this start; gone when it is over."""
        return self.path / f"ranks-{self.key}"

    @property
    def meeting(self) -> Path:
        """Through which ranks on one host meet; nobody else can open it."""
        return self.ranks / "meeting"

    def open(self) -> None:
        """Make them, and remove those of starts whose watcher was killed: who calls this holds the folder."""
        for old in self.path.glob("ranks-*"):
            shutil.rmtree(old, ignore_errors=True)
        own_folder(self.logs)
        own_folder(self.ranks)
        own_folder(self.meeting)


def stuck_ranks(seen: Mapping[int, tuple[int, float]], limits: Mapping[int, float]) -> list[int]:
    """The ranks that hold a run up; none while no rank is silent beyond its limit. `seen`: beats of every running rank,
    and seconds since the last of them.

    A rank that waits for others has beaten more often than those it waits for, but not always later: a rank may come
    late to the step in which it hangs. So of all that have been silent for half their limit the ones with the fewest
    beats are meant.
    """
    if not any(seconds > limits[rank] for rank, (_, seconds) in seen.items()):
        return []
    silent = {rank: beats for rank, (beats, seconds) in seen.items() if seconds > limits[rank] / 2}
    least = min(silent.values())
    return [rank for rank, beats in silent.items() if beats == least]


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass
class Watch:
    """One start of `ranks` processes, through the child that `command` is, whose own output goes to `log`. On
    `one_host` they meet through a file.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    ranks: int
    files: RunFolder
    launch: Launch
    log: Path
    what: str = "training"
    one_host: bool = True
    tell: Callable[[str], None] = _tell

    def __post_init__(self) -> None:
        self._seen: dict[int, tuple[int, float]] = {}
        self._present: dict[int, RankStatus] = {}
        self._observations = Observations()
        self._ending = 0.0
        self._asked = False
        self._family: Family | None = None

    def run(self, on_wait: Callable[[], None] = lambda: None) -> None:
        """Start it and wait for its end; raises the run's error, after the log lines it is about were printed.

        Whatever is raised by `on_wait` or by a signal handler ends the run too, after it had time to save. Where
        another process is at this run, its end is waited for; after a while that is `ConflictError`.
        """
        with run_lock(self.files.path, self.tell):
            self._run(on_wait)

    def _run(self, on_wait: Callable[[], None]) -> None:
        files = self.files
        files.open()
        sizes = {path: path.stat().st_size for path in files.logs.glob("*.log")}
        variables = {
            "QUIVER_RANKS": str(files.ranks),
            "QUIVER_COLLECTIVE_SECONDS": str(self.launch.collective_seconds),
        }
        if self.one_host:
            variables[MEETING] = str(files.meeting)
        child = start_child(self.command, self.log, {**self.environment, **variables})
        self._family = Family(child)
        try:
            while child.poll() is None:
                self._wait(child)
                on_wait()
            self._look()
        finally:
            self._finish(child)
            self._present = read_all(files.ranks)
            shutil.rmtree(files.ranks, ignore_errors=True)
        self._observations.asked = self._asked
        launch = FinishedLaunch(self.ranks, files.path, sizes, child.returncode, self.what)
        result = launch_result(self._present, self._observations, launch)
        if result.error is not None:
            if result.lines:
                self.tell(result.lines)
            raise result.error

    def stop(self) -> None:
        """Ask the run to save and leave; a second call does nothing. In a Slurm job it is Slurm that asks the ranks."""
        if not self._asked and self._family is not None:
            self._asked = True
            self._ending = self._ending or time.monotonic() + self.launch.save_seconds
            if not self._in_slurm:
                self._family.look(now=True)
                self._family.child.terminate()

    def _wait(self, child: subprocess.Popen[bytes]) -> None:
        with suppress(subprocess.TimeoutExpired):
            child.wait(max(POLL_SECONDS, self.ranks / 200))
        assert self._family is not None
        self._family.look()
        self._look()
        if self._ending and time.monotonic() > self._ending:
            self._family.kill(_REPORT_SECONDS if self.ranks > 1 else 0)

    def _look(self) -> None:
        """Note who failed, died or is stuck; the first of them begins the end."""
        now = time.monotonic()
        self._present = read_all(self.files.ranks)
        for rank in range(self.ranks):
            status = self._present.get(rank)
            beats = -1 if status is None else status.beats
            if self._seen.get(rank, (None, 0.0))[0] != beats:
                self._seen[rank] = (beats, now)
        if self._ending:
            return
        left = [each for each in self._present.values() if each.code is not None]
        dead = [each.rank for each in self._present.values() if each.gone]
        self._observations.dead = dead
        if any(each.code for each in left):
            saving = not dead and all(each.code in (0, 75) for each in left)
            self._ending = now + (self.launch.save_seconds if saving else _FAULT_GRACE)
        elif dead:
            self._ending = now + _FAULT_GRACE
        elif len(left) == self.ranks:
            self._ending = now + self.launch.save_seconds
        else:
            self._look_for_hang(now)

    def _look_for_hang(self, now: float) -> None:
        running = [rank for rank in range(self.ranks) if (p := self._present.get(rank)) is None or p.code is None]
        limits = {rank: self._limit(rank) for rank in running}
        stuck = stuck_ranks({rank: (self._seen[rank][0], now - self._seen[rank][1]) for rank in running}, limits)
        if not stuck:
            return
        self._dump()
        stopped = [rank for rank in stuck if self._is_stopped(rank)]
        self._observations.stuck = stopped or stuck
        self._observations.silent_seconds = limits[self._observations.stuck[0]]
        self._observations.at = {rank: status.at for rank, status in self._present.items()}
        self._ending = time.monotonic() + _FAULT_GRACE
        assert self._family is not None
        self._family.look(now=True)
        self._family.child.terminate()

    def _limit(self, rank: int) -> float:
        """How long a rank may be silent: until its first beat it imports, meets the others and reads a checkpoint."""
        return self.launch.hang_seconds if self._seen[rank][0] > 0 else self.launch.start_seconds

    def _dump(self) -> None:
        """Have every rank write the stacks of its threads into its log."""
        for status in self._present.values():
            if status.owner.dead() is False and status.code is None:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(status.owner.pid, signal.SIGUSR2)
        if self._in_slurm:
            job = self.environment.get("SLURM_JOB_ID", "")
            with suppress(OSError, subprocess.SubprocessError):
                subprocess.run(["scancel", "--signal=USR2", job], capture_output=True, timeout=60, check=False)
        time.sleep(_DUMP_SECONDS)

    def _is_stopped(self, rank: int) -> bool:
        status = self._present.get(rank)
        if status is None or status.owner.dead() is not False:
            return False
        try:
            with open(f"/proc/{status.owner.pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] in "Tt"
        except OSError:
            return False

    @property
    def _in_slurm(self) -> bool:
        """Whether the ranks are on other hosts too; SIGTERM to srun itself would kill them at once."""
        return os.path.basename(self.command[0]) == "srun"

    def _finish(self, child: subprocess.Popen[bytes]) -> None:
        """Nothing of this start runs on when this returns."""
        assert self._family is not None
        fault = sys.exc_info()[1]
        if child.poll() is None and fault is not None:
            self.stop()
            until = time.monotonic() + self.launch.save_seconds
            while self._family.alive() and time.monotonic() < until:
                self._family.look()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(POLL_SECONDS)
        orphans = child.returncode is not None and child.returncode < 0
        until = time.monotonic() + (
            self.launch.save_seconds if orphans and not self._observations.any else _FAULT_GRACE
        )
        while self._family.alive() and time.monotonic() < until:
            time.sleep(POLL_SECONDS / 4)
        self._family.kill()
