"""The process that is forked: `python server.py SOCKET commands|ranks`. It imports what those import, then forks a
child per request.

A child of `commands` becomes what a console script is at its start: words, environment, folder, path, streams and
signals are the request's, and what our modules took from their process while they were imported is taken again. Then
the script itself runs in it, and the interpreter ends with it. The fork server that a command starts is a fork too: of
a twin that was put aside before the command began. A child of `ranks` forks the processes of one world, as torchrun
would start them.

Nothing but imports happens here before a fork: no pool of Arrow, duckdb or torch has started, which is looked at.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing.util
import os
import runpy
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

IMPORTED = {
    "commands": ("luigi.cmdline", "pipelines", "quiver.console", "pipelines.runtime.workers", "datakit.apply"),
    "ranks": ("torch._dynamo", "trainers.run", "trainers.engine.training.loop"),
}
"""What a command imports, and what its first stage does; what a rank does."""

ROOM = 1 << 16
"""Bytes of a request."""

_FORK_SERVER = "from multiprocessing.forkserver import main"
_INHERITED = sys.path[1:]
"""What is importable without PYTHONPATH and without a script's folder."""


def serve(asked: socket.socket) -> Callable[[], None]:
    """Answer requests to their end: the pid, then the exit code, of a child each. Returns in every child, with what is
    to be done there; exits here.
    """
    while True:
        text, fds, _, _ = socket.recv_fds(asked, ROOM, 3)
        if not text:
            os._exit(0)
        child = os.fork()
        if not child:
            asked.close()
            job = json.loads(text)
            return lambda: world(job, fds) if "ranks" in job else become(job, fds)
        for fd in fds:
            os.close(fd)
        asked.sendall(f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        asked.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def become(job: dict[str, Any], fds: Sequence[int]) -> None:
    """Be the console script of `job`, with `fds` for its streams."""
    aside = twin(fds)
    if aside is None:
        return
    place(job["environment"], job["folder"], fds, (0, 1, 2))
    script, *words = job["words"]
    sys.argv, sys.orig_argv = [script, *words], [sys.executable, script, *words]
    sys.path.insert(0, os.path.dirname(script))
    multiprocessing.util.spawnv_passfds = aside
    remember_anew()
    runpy.run_path(script, run_name="__main__")


def world(job: dict[str, Any], fds: Sequence[int]) -> None:
    """Be what starts the ranks of `job` and waits for them; when one fails, all go. Returns where a rank ends."""
    place(job["environment"], job["folder"], fds, (0, 1, 2))
    sys.path.insert(0, job["folder"])
    module, *words = job["words"]
    running: dict[int, int] = {}
    for rank in range(job["ranks"]):
        child = os.fork()
        if not child:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["ranks"]} if job["ranks"] > 1 else {}
            os.environ.update({name: str(value) for name, value in names.items()})
            sys.argv = [module, *words]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            return
        running[child] = rank
    failed = False
    while running:
        child, status = os.wait()
        del running[child]
        if status and not failed:
            failed = True
            for other in running:
                os.kill(other, signal.SIGKILL)
    sys.exit(int(failed))


def place(environment: dict[str, str], folder: str, fds: Sequence[int], numbers: Sequence[int]) -> None:
    """Take on an environment, its PYTHONPATH, a folder, and descriptors under their numbers."""
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = [*filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *_INHERITED]
    os.chdir(folder)
    high = [importlib.import_module("fcntl").fcntl(fd, 0, 100) for fd in fds]  # F_DUPFD: out of the numbers' way
    for fd in fds:
        os.close(fd)
    for fd, number in zip(high, numbers, strict=True):
        os.dup2(fd, number)
        os.close(fd)


def remember_anew() -> None:
    """What modules keep of the process, the words and the signals with which they were imported."""
    loaded: dict[str, Any] = {**sys.modules}
    importlib.reload(loaded["luigi.cmdline"])  # its function has the words for a default
    for name in ("schemas.process.interpreter", "datakit.run.runner"):
        loaded[name]._HOME = os.getpid()
    doors, command = importlib.reload(loaded["trainers.doors"]), loaded["pipelines.runtime.command"]
    loaded["pipelines.runtime.invocation"]._given = sys.argv[1:]
    loaded["luigi.interface"]._run = command.door if doors.is_command() else command.run


def twin(streams: Sequence[int]) -> Callable[[bytes, Sequence[Any], Sequence[int]], int] | None:
    """Put a fork of this process aside; what starts a process, in place of `multiprocessing`'s own: the twin where a
    fork server is wanted. None in the twin itself, once it has been one.
    """
    here, there = socket.socketpair()
    child = os.fork()
    if child:
        there.close()
    else:
        here.close()
        for fd in streams:
            os.close(fd)
        be_fork_server(there)
        return None
    start = multiprocessing.util.spawnv_passfds

    def started(path: bytes, words: Sequence[Any], fds: Sequence[int]) -> int:
        if not str(words[-1]).startswith(_FORK_SERVER):
            return start(path, words, fds)
        numbers = [0, 1, 2, *fds]
        job = {"code": words[-1], "environment": dict(os.environ), "folder": os.getcwd(), "numbers": numbers}
        job["blocked"] = [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
        socket.send_fds(here, [json.dumps(job).encode()], numbers)
        here.close()
        return child

    return started


def be_fork_server(asked: socket.socket) -> None:
    """Wait until one is wanted, be it, and return; exit where none is."""
    text, fds, _, _ = socket.recv_fds(asked, ROOM, 32)
    asked.close()
    if not text:
        os._exit(0)
    job = json.loads(text)
    signal.pthread_sigmask(signal.SIG_SETMASK, job["blocked"])
    place(job["environment"], job["folder"], fds, job["numbers"])
    sys.argv = ["-c"]
    remember_anew()
    main = sys.modules["__main__"] = ModuleType("__main__")
    exec(job["code"], vars(main))  # noqa: S102 - multiprocessing's own line


def main() -> None:
    """Import, look whether this may be forked, and serve."""
    asked, kind = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    sys.argv = ["-c"]  # what is imported here belongs to no command yet
    for name in IMPORTED[kind]:
        importlib.import_module(name)
    threads = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    assert threading.active_count() == 1 and len(threads - {"jemalloc_bg_thd"}) <= 1, f"not to be forked: {threads}"
    gc.freeze()
    serve(asked)()


if __name__ == "__main__":
    main()
