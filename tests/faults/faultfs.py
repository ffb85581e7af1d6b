"""An fsspec file system that counts its calls and makes the n-th one fail, before it is done or after (the
reply is lost).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from typing import Any

import fsspec

COUNTED = ("info", "find", "open", "exists", "pipe_file", "cat_file", "cp_file", "rm_file", "write", "close")
KINDS = ("kill", "ENOSPC", "EIO", "lost")


class FaultFS:
    """A file system (or one of its open files), but for the n-th counted call; `lost` does the call, then
    fails.
    """

    def __init__(self, real: Any, fault: Fault) -> None:
        self.__dict__.update(_real=real, _fault=fault)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._real, name)
        if name not in COUNTED:
            return attribute

        def call(*args: Any, **options: Any) -> Any:
            result = self._fault.pass_through(lambda: attribute(*args, **options))
            return FaultFS(result, self._fault) if name == "open" else result

        return call


class Fault:
    """Which call fails, and how; shared by all file systems of a run. `counted` says how many there were."""

    def __init__(self, kind: str, n: int) -> None:
        self.kind, self.n, self.counted = kind, n, 0

    def pass_through(self, work: Any) -> Any:
        self.counted += 1
        if self.counted != self.n:
            return work()
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "lost":
            work()
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        number = getattr(errno, self.kind)
        raise OSError(number, os.strerror(number))

    def filesystem(self, protocol: str, **options: Any) -> FaultFS:
        return FaultFS(fsspec.filesystem(protocol, **options), self)


@contextlib.contextmanager
def faulty_fs(kind: str, n: int) -> Iterator[Fault]:
    """Every object store opened meanwhile goes through a `FaultFS`."""
    from schemas.store import objects

    fault = Fault(kind, n)
    real, objects.fsspec = objects.fsspec, fault  # type: ignore[assignment]
    try:
        yield fault
    finally:
        objects.fsspec = real
