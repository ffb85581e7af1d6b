"""An `os` that counts its calls and makes the n-th one fail: killed, refused with an errno, or a loss of
power.

It stands in for the `os` of `schemas.store.local`, which does every local operation through it, so that the
points are the system calls themselves. A kill during a write leaves half of it. A loss of power also takes
back whatever was not synced: bytes after the last fsync of a file, names after the last fsync of their
folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

READING = ("listdir", "lstat", "fstat")
GROWING = ("open", "write", "link", "mkdir", "fsync")
CHANGING = (*GROWING, "replace", "unlink", "rmdir")
COUNTED = (*CHANGING, *READING, "close")
KINDS = {
    # kind: (errno, calls that count, whether every later call of these fails too)
    "kill": (0, COUNTED, True),
    "power": (0, CHANGING, True),
    "ENOSPC": (errno.ENOSPC, GROWING, True),
    "EDQUOT": (errno.EDQUOT, GROWING, True),
    "EROFS": (errno.EROFS, CHANGING, True),
    "EIO": (errno.EIO, COUNTED, False),
    "EACCES": (errno.EACCES, ("open", "link", "mkdir", "replace", "unlink", "rmdir", "listdir"), False),
    "EMFILE": (errno.EMFILE, ("open", "listdir"), False),
}


class FaultOS:
    """`os`, but for the n-th counted call (from 1; 0 never fails). `counted` says how many there were."""

    def __init__(self, kind: str, n: int, spare: str = "") -> None:
        self._errno, self._calls, self._lasting = KINDS[kind]
        self._kind, self._n, self.counted = kind, n, 0
        self._power = _Power(spare) if kind == "power" else None

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._counting(name, real) if name in self._calls else real

    def _counting(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if name == "open" and self._errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) and not args[1] & os.O_CREAT:
                return real(*args, **options)
            self.counted += 1
            if self.counted == self._n or (self._lasting and 0 < self._n < self.counted):
                self._fail(name, args)
            if self._power is None:
                return real(*args, **options)
            return self._power.do(name, real, args, options)

        return call

    def _fail(self, name: str, args: tuple[Any, ...]) -> None:
        if self._errno:
            if name == "close":
                os.close(*args)  # Linux frees the descriptor whatever close says
            if name == "write" and len(args[1]) > 1:
                os.write(args[0], args[1][: len(args[1]) // 2])
            raise OSError(self._errno, os.strerror(self._errno), args[0] if isinstance(args[0], str) else None)
        if name == "write":
            os.write(args[0], args[1][: len(args[1]) // 2])
        if self._power is not None:
            self._power.lose()
        os.kill(os.getpid(), signal.SIGKILL)


class _Power:
    """Remembers what is not durable yet. `spare` is a folder of the same file system for what may have to
    come back.
    """

    def __init__(self, spare: str) -> None:
        self._spare, self._kept = spare, 0
        self._paths: dict[int, str] = {}
        self._files: dict[int, tuple[int, int]] = {}  # inode: (a descriptor of our own, synced bytes)
        self._undo: list[tuple[str, Callable[[], None]]] = []  # (folder, how to take the change back)

    def do(self, name: str, real: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if name == "fsync":
            real(*args)
            self._sync(args[0])
            return None
        if name in ("unlink", "rmdir") or (name == "replace" and os.path.lexists(args[1])):
            path = args[-1]
            back = self._keep(path) if os.path.isfile(path) else None
        existed = name == "open" and os.path.lexists(args[0])
        result = real(*args, **options)
        if name == "open":
            self._paths[result] = args[0]
            if args[1] & os.O_CREAT:
                self._files[os.fstat(result).st_ino] = (os.dup(result), 0)
                if not existed:
                    self._then(args[0], lambda: os.unlink(args[0]))
        elif name == "link":
            self._then(args[1], lambda: os.unlink(args[1]))
        elif name == "mkdir":
            self._then(args[0], lambda: os.rmdir(args[0]))
        elif name == "replace":
            self._then(args[1], lambda: os.replace(args[1], args[0]))
        elif name == "unlink":
            self._then(args[0], lambda: os.link(back, args[0]))
        elif name == "rmdir":
            self._then(args[0], lambda: os.mkdir(args[0]))
        return result

    def lose(self) -> None:
        """Take back what is not durable, newest first."""
        for _, undo in reversed(self._undo):
            with contextlib.suppress(OSError):
                undo()
        for own, synced in self._files.values():
            if os.fstat(own).st_size > synced:
                os.ftruncate(own, synced)

    def _sync(self, number: int) -> None:
        facts = os.fstat(number)
        if facts.st_ino in self._files:
            own, _ = self._files[facts.st_ino]
            self._files[facts.st_ino] = (own, facts.st_size)
        folder = self._paths.get(number, "")
        self._undo = [entry for entry in self._undo if entry[0] != folder]

    def _then(self, path: str, undo: Callable[[], None]) -> None:
        self._undo.append((os.path.dirname(path), undo))

    def _keep(self, path: str) -> str:
        self._kept += 1
        back = f"{self._spare}/{self._kept}"
        os.link(path, back)
        return back


@contextlib.contextmanager
def faulty(kind: str, n: int, spare: str = "") -> Iterator[FaultOS]:
    """Every local operation of the stores goes through a `FaultOS` meanwhile."""
    from schemas.store import local

    fault = FaultOS(kind, n, spare)
    real, local.os = local.os, fault  # type: ignore[assignment]
    try:
        yield fault
    finally:
        local.os = real
