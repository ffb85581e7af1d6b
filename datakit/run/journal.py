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
from typing import Any, BinaryIO

from schemas.canonical import canonical_of_plain
from schemas.store.storage import guarded
from schemas.untrusted import strict_json

_KEY, _SUM = 64, 32
_LONGEST = 1 << 28
"""Bytes of a line; a longer one, which no server's answer makes, is read in slices and is none."""


class Journal:
    """The answers in the file at `path`; many threads may use it. Where each stands is found when the first is looked
    for; the answers themselves stay in the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._known: dict[str, tuple[int, int]] | None = None
        self._file: int | None = None
        self._lock = threading.Lock()

    def find(self, asked: str) -> Any | None:
        """The answer to what has the key `asked`; None where there is none."""
        with self._lock:
            if self._known is None:
                self._known = _places(self.path)
            place = self._known.get(asked)
        body = None if place is None else _line(self.path, *place)
        return None if body is None else strict_json(body)

    def add(self, asked: str, answer: object) -> None:
        """Write an answer down; `StorageError` where that cannot be done."""
        assert len(asked) == _KEY, asked
        body = canonical_of_plain(answer).encode()
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


def _places(path: str) -> dict[str, tuple[int, int]]:
    """Where the whole lines of a file begin and how long they are, by key; torn, changed and foreign ones are none."""
    places: dict[str, tuple[int, int]] = {}
    file = _readable(path)
    if file is None:
        return places
    with file:
        begin = 0
        while line := file.readline(_LONGEST):
            if (whole := _parted(line)) is not None:
                places[whole[0]] = begin, len(line)
            begin += len(line)
    return places


def _line(path: str, begin: int, length: int) -> bytes | None:
    """The answer in the line that stands there; None where it no longer does."""
    file = _readable(path)
    if file is None:
        return None
    with file:
        file.seek(begin)
        whole = _parted(file.read(length))
    return None if whole is None else whole[1]


def _readable(path: str) -> BinaryIO | None:
    try:
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    except OSError:
        return None


def _parted(line: bytes) -> tuple[str, bytes] | None:
    """The key and the answer of a line."""
    parts = line.rstrip(b"\n").split(b" ", 2)
    if len(parts) < 3 or len(parts[1]) != _KEY or parts[0] != _sum(parts[1], parts[2]):
        return None
    return parts[1].decode("ascii", "replace"), parts[2]


def _sum(asked: bytes, body: bytes) -> bytes:
    return hashlib.sha256(asked + b" " + body).hexdigest()[:_SUM].encode()
