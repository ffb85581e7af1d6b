"""Children die with their parent, whatever kills it.

A process of a pool watches a pipe to its parent (the kernel's parent-death signal would watch the forkserver instead);
a training run started with `Popen` asks the kernel for SIGTERM, so that it may save before it goes.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_ENGINE = ("trainers.engine.sample", "trainers.engine.score")
_PR_SET_PDEATHSIG = 1
_GRACE_SECONDS = 20.0


def preload(models: bool) -> None:
    """Have the fork server import once what every worker needs; with `models`, the engine too (seconds a worker).

    Only imports happen there, no arithmetic: a library that has started its threads must not be forked.
    """
    multiprocessing.set_forkserver_preload(["pipelines", *(_ENGINE if models else ())])


def die_with_parent() -> None:
    """In a child of `multiprocessing`: end this process at once when its parent is gone. Idempotent."""
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == "parent-watch" for thread in threading.enumerate()):
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def start_child(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start `command` with its output behind what `log` holds; SIGTERM reaches it when this process dies."""
    log.parent.mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    parent = os.getpid()

    def in_child() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(75)

    with log.open("ab") as output:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            preexec_fn=in_child,  # noqa: PLW1509 - two system calls, no locks; nothing else asks the kernel in time
        )


def stop_child(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM, a grace period to save, then SIGKILL; returns when the child is gone."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
