"""How Python interpreters are started that run nothing by chance.

Python puts the folder in which it is started (`-m`, `-c`) or the script's own before everything that is installed, so
a file `torch.py` that lies beside somebody's data would run. From Python 3.11 on `-P` and PYTHONSAFEPATH keep it from
doing so; 3.10 is handed a line that takes the folder out before anything is imported.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
    main = threading.current_thread() is threading.main_thread()
    heeds = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        if not safe_path:
            from multiprocessing import forkserver

            os.chdir("/")
            forkserver.ensure_running()
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, heeds)
        if not safe_path:
            os.chdir(here)
        if before is None:
            os.environ.pop("PYTHONSAFEPATH", None)
        else:
            os.environ["PYTHONSAFEPATH"] = before
