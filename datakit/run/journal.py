"""Answers that were paid for, written down one by one as they come, until the chunk that they belong to is kept.

A file of lines, one an answer: checksum, the key of what was asked, the answer as JSON. Each is appended by one write,
so that a process that is killed leaves at most a torn last line, which is no answer. Whoever asks again looks here
first. It lies on a local disk (`datakit.run.chunks`), and is gone when its chunk is kept.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from contextlib import suppress
from typing import Any

from schemas.canonical import canonical
from schemas.store.storage import guarded
from schemas.untrusted import strict_json

_KEY, _SUM = 64, 32
_LIMIT = 1 << 32


class Journal:
    """The answers in the file at `path`, read when the first one is looked for; many threads may use it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._known: dict[str, bytes] | None = None
        self._file: int | None = None
        self._lock = threading.Lock()

    def find(self, asked: str) -> Any | None:
        """The answer to what has the key `asked`; None where there is none."""
        with self._lock:
            if self._known is None:
                self._known = _read(self.path)
            body = self._known.get(asked)
        return None if body is None else strict_json(body)

    def add(self, asked: str, answer: object) -> None:
        """Write an answer down; `StorageError` where that cannot be done."""
        assert len(asked) == _KEY, asked
        body = canonical(answer).encode()
        with guarded("write", self.path), self._lock:
            if self._file is None:
                self._file = _opened(self.path)
            _append(self._file, b"\n%s %s %s\n" % (_sum(asked.encode(), body), asked.encode(), body))

    def close(self) -> None:
        """Close the file; what it holds stays."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
            self._file = self._known = None

    def drop(self) -> None:
        """Remove it: what it holds is kept elsewhere."""
        self.close()
        with suppress(FileNotFoundError), guarded("remove", self.path):
            os.unlink(self.path)


def _opened(path: str) -> int:
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if os.lstat(folder).st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "the folder of the journal is somebody else's", folder)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _append(file: int, line: bytes) -> None:
    written = os.write(file, line)
    if written < len(line):  # the disk is full: the rest says so, or the line stays torn
        os.write(file, line[written:])


def _read(path: str) -> dict[str, bytes]:
    """The whole lines of a file, by key; torn, changed and foreign ones are none."""
    known: dict[str, bytes] = {}
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return known
    with os.fdopen(descriptor, "rb") as file:
        for line in file:
            parts = line.rstrip(b"\n").split(b" ", 2)
            if len(parts) == 3 and len(parts[1]) == _KEY and parts[0] == _sum(parts[1], parts[2]):
                known[parts[1].decode("ascii", "replace")] = parts[2]
    return known


def _sum(asked: bytes, body: bytes) -> bytes:
    return hashlib.sha256(asked + b" " + body).hexdigest()[:_SUM].encode()
