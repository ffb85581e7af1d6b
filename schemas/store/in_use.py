"""A folder of results in use: runs hold it together, and who deletes from it holds it alone.

The lock is `flock` on the folder itself: nothing is left behind, and the kernel lets go of the dead.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import ConflictError
from schemas.store.storage import guarded, normal, shown

WAIT_SECONDS = 60.0
"""How long a run waits for somebody who deletes."""


@contextmanager
def in_use(root: str) -> Iterator[None]:
    """Hold `root` beside other runs, so that nobody deletes from it; nothing to hold where it is no local folder.

    `ConflictError` where somebody has deleted from it for a minute.
    """
    with _locked_by(root, fcntl.LOCK_SH, WAIT_SECONDS, "it removes what nothing refers to"):
        yield


@contextmanager
def used_alone(root: str) -> Iterator[None]:
    """Hold `root` against all runs; `ConflictError` at once where there is one."""
    with _locked_by(root, fcntl.LOCK_EX, 0.0, "a run is at work in it"):
        yield


@contextmanager
def _locked_by(root: str, how: int, seconds: float, why: str) -> Iterator[None]:
    folder = normal(root)
    if "://" in folder or not os.path.isdir(folder):
        yield
        return
    with guarded("lock", folder):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + seconds
        while not _locks(number, how):
            if time.monotonic() >= deadline:
                raise ConflictError(
                    "busy",
                    f"another process holds {shown(folder)}: {why}",
                    where=shown(folder),
                    kept="everything; nothing was changed",
                    next="wait for the other command, then run the same one again",
                )
            time.sleep(0.05)
        yield
    finally:
        os.close(number)


def _locks(number: int, how: int) -> bool:
    """Whether the lock is there now, or the file system has none."""
    try:
        fcntl.flock(number, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return how == fcntl.LOCK_SH
    return True
