"""Small files that a run keeps beside its results: written without following a link that somebody put in their way.

Folders are this user's own (0700): logs and figures may tell of private data.
"""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from schemas.store.storage import guarded


def replace_file(path: Path, data: str | bytes, *, durable: bool = False) -> None:
    """Make `data` the content of `path`, whole or not at all; a link that stands there is replaced, not followed.

    With `durable` it outlives a power cut.
    """
    raw = data.encode("utf-8") if isinstance(data, str) else data
    fresh = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    with guarded("write", str(path)):
        try:
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb") as file:
                file.write(raw)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(fresh, path)
        except BaseException:
            with suppress(OSError):
                fresh.unlink()
            raise


def replace_verified(path: Path, data: bytes | memoryview, *, durable: bool = False) -> None:
    """`replace_file` of the SHA-256 of `data` (32 bytes) and `data`."""
    replace_file(path, hashlib.sha256(data).digest() + data, durable=durable)


def read_verified(path: Path) -> memoryview:
    """What `replace_verified` put at `path`; `ValueError` for a file that is another since."""
    file = memoryview(path.read_bytes())
    if hashlib.sha256(file[32:]).digest() != file[:32]:
        raise ValueError("the content does not have the digest it was written with")
    return file[32:]


def append_file(path: Path) -> BinaryIO:
    """A writer behind what `path` holds; `StorageError` where a link stands there."""
    with guarded("append to", str(path)):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return open(os.open(path, flags, 0o666), "ab")


def own_folder(path: Path) -> None:
    """Make the folder `path`, for this user alone, and those above it; `StorageError` where a link stands there."""
    with guarded("make folder", str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        if path.is_symlink():
            raise OSError(errno.ELOOP, "a link stands where a folder of a run is written", str(path))
