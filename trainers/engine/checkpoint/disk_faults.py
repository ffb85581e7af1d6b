"""Faults of a disk while torch writes: its archive writer says nothing of errno ("unexpected pos 704 vs 598").

Here such a fault becomes the `StorageError` that it is, by how much room the file system has left.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import QuiverError, StorageError, printable
from schemas.store.storage import shown, storage_error

_WRITER = ("inline_container", "PytorchStreamWriter", "PyTorchFileWriter", "iostream error")
"""What its messages name."""
_BLOCKS = 16
"""Free blocks below which a file system is full: one may refuse a write before it counts none."""


@contextmanager
def torch_writing(folder: str) -> Iterator[None]:
    """Turns what torch's writer raises below `folder` into `StorageError`; all else passes."""
    try:
        yield
    except QuiverError:
        raise
    except OSError as error:
        raise storage_error(error, "write", error.filename or folder) from error
    except RuntimeError as error:
        if (fault := writer_fault(error, folder)) is None:
            raise
        raise fault from error


def writer_fault(error: BaseException, folder: str) -> QuiverError | None:
    """The fault of the disk behind a `RuntimeError` of torch's writer; None for every other error."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError):
        return storage_error(cause, "write", cause.filename or folder)
    if not any(name in str(error) for name in _WRITER):
        return None
    if is_full(folder):
        return storage_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "write", folder)
    return unwritten(folder, printable(error))


def is_full(folder: str) -> bool:
    """Whether the file system of `folder` has no room, or no entries, left."""
    state = os.statvfs(folder)
    return state.f_bavail < _BLOCKS or (state.f_files > 0 and state.f_favail == 0)


def unwritten(folder: str, reason: str) -> QuiverError:
    """The error for a checkpoint that cannot be put on disk."""
    return StorageError(
        "checkpoint-unwritten",
        f"a checkpoint cannot be written to {shown(folder)}",
        expected="a folder that takes the files of all ranks",
        found=reason,
        where=shown(folder),
        kept="the checkpoints before it",
        next="make room or repair the storage, then run the same command again",
    )
