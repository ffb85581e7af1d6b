"""How Python interpreters are started that run nothing by chance.

Python puts the folder in which it is started (`-m`, `-c`) or the script's own before everything that is installed, so
a file `torch.py` that lies beside somebody's data would run. From Python 3.11 on `-P` and PYTHONSAFEPATH keep it from
doing so; 3.10 is handed a line that takes the folder out before anything is imported.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker

from schemas.store.scratch import Scratch

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask a command to stop."""

_SOCKETS = "quiv-"
"""What the folder of sockets is called: as short as Python's own, for the path of a socket may have 107 characters."""

_LONGEST = 107 - len(f"/{_SOCKETS}xxxxxxxx/listener-xxxxxxxx")
"""Bytes that the path of the temp folder may have for a socket below it."""

_HOME = os.getpid()

HAS_SAFE_PATH = sys.version_info >= (3, 11)

_OLDER = (
    "import sys; del sys.path[0]; name = sys.argv.pop(1); import runpy; runpy.{call}(name, run_name='__main__'{more})"
)


def module(name: str, *arguments: str, options: Sequence[str] = (), safe_path: bool = HAS_SAFE_PATH) -> list[str]:
    """The command `python -m name arguments`; `options` are Python's own. safe_path: whether it knows `-P`."""
    if safe_path:
        return [sys.executable, "-P", *options, "-m", name, *arguments]
    code = _OLDER.format(call="run_module", more=", alter_sys=True")
    return [sys.executable, *options, "-c", code, name, *arguments]


def script(path: str, *, options: Sequence[str] = (), safe_path: bool = HAS_SAFE_PATH) -> list[str]:
    """The command that runs the file `path`, whose own folder is not importable either."""
    if safe_path:
        return [sys.executable, "-P", *options, path]
    return [sys.executable, *options, "-c", _OLDER.format(call="run_path", more=""), path]


def importable() -> str:
    """PYTHONPATH for a child that shall import what this process can; never the working folder by chance."""
    return os.pathsep.join(os.path.abspath(path) for path in sys.path if path)


@contextmanager
def safe_children(safe_path: bool = HAS_SAFE_PATH) -> Iterator[None]:
    """While this is open, interpreters that libraries start (the fork server of `multiprocessing`) are safe too, and
    deaf to the Ctrl-C of a terminal: it is their parent that ends them.
    """
    before, here = os.environ.get("PYTHONSAFEPATH"), os.getcwd() if not safe_path else ""
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        if not safe_path:
            os.chdir("/")
        if os.getpid() == _HOME:
            _start_fork_server()
        yield
    finally:
        if not safe_path:
            os.chdir(here)
        if before is None:
            os.environ.pop("PYTHONSAFEPATH", None)
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _start_fork_server() -> None:
    """It and its children inherit SIGINT blocked. One that comes here meanwhile waits: an ignored one would be lost."""
    own_sockets()
    resource_tracker.ensure_running()  # started later, it would unblock SIGINT on its way
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def own_sockets() -> None:
    """Have `multiprocessing` put its sockets into a folder that the next process removes where this one is killed; its
    own, `pymp-*`, would stay. Below a temp folder of a long path no socket can be; `/tmp` is taken then, as Python does
    from 3.14 on.
    """
    settings = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    if settings.get("tempdir") is None:
        parent = tempfile.gettempdir()
        folder = Scratch(_SOCKETS, parent if len(os.fsencode(parent)) <= _LONGEST else "/tmp")
        settings["tempdir"] = folder.path
        atexit.register(folder.close)


def end_fork_server() -> None:
    """End the fork server of this process, if it has one: it would notice that only once its imports are done."""
    number = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if number is not None and os.getpid() == _HOME:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


@contextmanager
def stops_deferred() -> Iterator[None]:
    """While this is open, signals that ask the program to stop wait; its handlers get them afterwards. In other threads
    than the main one, which never run handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in STOPS}
    heeded = [number for number, handler in before.items() if callable(handler)]
    for number in heeded:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])
        for one in came:
            signal.raise_signal(one)
