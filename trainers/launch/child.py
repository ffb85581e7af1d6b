"""Children that leave no orphans: a child of ours, whatever it started itself, and how all of it is ended."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from schemas.store.ownfiles import append_file, own_folder

_PR_SET_PDEATHSIG = 1


def leave_with_parent() -> None:
    """Ask the kernel to send this process SIGTERM when the one that started it is gone (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def gone_with_parent(number: signal.Signals) -> Callable[[], None]:
    """What a child does between fork and exec (`preexec_fn`) to be sent that signal when this process dies (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    parent = os.getpid()

    def in_child() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, number)
            if os.getppid() != parent:
                os._exit(75)

    return in_child


def start_child(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start `command` with its output behind what `log` holds; SIGTERM reaches it when this process dies.

    It has a session of its own: the Ctrl-C of a terminal goes to the one that watches, which passes it on once.
    """
    own_folder(log.parent)
    with append_file(log) as output:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
            preexec_fn=gone_with_parent(signal.SIGTERM),  # noqa: PLW1509 - two system calls, no locks; nothing else asks the kernel in time
        )


class Family:
    """A child and everything it started; knows who belongs to it even after the child itself has died."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.child = child
        self._members: dict[int, psutil.Process] = {}
        self._looked = 0.0

    def look(self, *, now: bool = False) -> None:
        """Note who is there; at most once a second unless it has to be `now`."""
        if not now and time.monotonic() - self._looked < 1:
            return
        self._looked = time.monotonic()
        with suppress(psutil.Error):
            for process in psutil.Process(self.child.pid).children(recursive=True):
                self._members.setdefault(process.pid, process)

    def kill(self, spare_seconds: float = 0.0) -> None:
        """SIGKILL to every one of them that still lives; returns when they are gone, or after ten seconds. The child
        itself, if it is but a launcher, is spared for a while: it reports how those it started ended.
        """
        self.look(now=True)
        members = list(self._members.values())
        if not spare_seconds:
            self.child.kill()
        for process in members:
            with suppress(psutil.Error):
                process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(spare_seconds or 10)
        if self.child.poll() is None:
            self.kill()
        psutil.wait_procs(members, timeout=10)

    def alive(self) -> bool:
        """Whether one of those noted still runs (a zombie does not)."""

        def runs(process: psutil.Process) -> bool:
            try:
                return bool(process.status() != psutil.STATUS_ZOMBIE)
            except psutil.Error:
                return False

        return self.child.poll() is None or any(runs(process) for process in self._members.values())
