"""Folders for a while below the temp folder: gone with whoever made them, however that process ended.

A process that is killed removes nothing, so each folder is locked (`flock`) by the one that made it, and whoever makes
the next removes those of this user that nobody holds any more: the kernel lets go of the locks of the dead.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import tempfile
from contextlib import suppress
from types import TracebackType

from schemas.store.storage import guarded


class Scratch:
    """A new folder `path`, this user's alone (0700), until `close`; `StorageError` where none can be made.

    parent: where it is made, if not in the temp folder.
    """

    def __init__(self, prefix: str, parent: str = "") -> None:
        parent = parent or tempfile.gettempdir()
        _sweep(parent, prefix)
        self._owner = os.getpid()
        with guarded("make a folder in", parent):
            self.path, self._lock = _made(prefix, parent)

    def __enter__(self) -> str:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder and what is in it; a forked copy of the process leaves it alone."""
        if self._owner == os.getpid():
            shutil.rmtree(self.path, ignore_errors=True)
            with suppress(OSError):
                os.close(self._lock)
            self._owner = 0


def _made(prefix: str, parent: str) -> tuple[str, int]:
    """A folder that is locked, and the descriptor that locks it; one that was swept before it was locked is made
    again.
    """
    while True:
        path = tempfile.mkdtemp(prefix=prefix, dir=parent)
        try:
            number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        if _locked(number) and os.path.isdir(path):
            return path, number
        os.close(number)


def _locked(number: int) -> bool:
    """Lock a new folder; False where a sweep was faster. A file system without locks is never swept."""
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@functools.cache
def _sweep(parent: str, prefix: str) -> None:
    """Remove what ended processes left, once for each process; what cannot be removed stays."""
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix):
                with suppress(OSError):
                    _remove_unheld(entry.path)


def _remove_unheld(path: str) -> None:
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(number).st_uid == os.getuid():
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
    finally:
        os.close(number)
