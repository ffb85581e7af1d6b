"""Outside files as hashed byte streams: what was read is what was named, by SHA-256, wherever the file lies.

A file that changed since its digest was taken is an `IntegrityError`, never a short read.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO, TypeVar

from datakit.formats.compression import CHUNK, beginning, plain
from schemas.errors import ConfigError, DataError, IntegrityError
from schemas.store.opening import named_file, no_such_file
from schemas.store.storage import guarded, normal, shown

T = TypeVar("T")


@contextmanager
def opened(url: str) -> Iterator[BinaryIO]:
    """A binary reader of `url`, through links; `ConfigError` if there is no such file or it may not be opened."""
    store, path = named_file(url)
    with guarded("read", url):
        _check_kind(url)
        try:
            stream = store.open(path)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise no_such_file(url) from error
        with stream:
            yield stream


def _check_kind(url: str) -> None:
    """`ConfigError` for a local place that is no file; one that is not there is for the caller to explain."""
    place = normal(url)
    try:
        mode = stat.S_IFREG if "://" in place else os.stat(place).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode):
        return
    folder = stat.S_ISDIR(mode)
    raise ConfigError(
        "not-a-file",
        f"{shown(url)} is {'a folder' if folder else 'a pipe or a device, and files are read more than once'}",
        expected="a file",
        kept="nothing was started",
        next=f"ls {shlex.quote(url)}" if folder else "write it into a file, and name that",
    )


def digests_of(files: tuple[str, ...]) -> tuple[str, ...]:
    """SHA-256 (hex) of each file's bytes as stored."""
    digests = []
    for url in files:
        with opened(url) as stream:
            digests.append(_sha256(stream))
    return tuple(digests)


def _sha256(stream: BinaryIO) -> str:
    state = hashlib.sha256()
    while data := stream.read(CHUNK):
        state.update(data)
    return state.hexdigest()


def checked(url: str, stream: BinaryIO, sha256: str) -> Iterator[bytes]:
    """The stored bytes of `stream` in chunks; `IntegrityError` at the end if they are not those of
    `sha256`.
    """
    state = hashlib.sha256()
    while data := stream.read(CHUNK):
        state.update(data)
        yield data
    if state.hexdigest() != sha256:
        raise IntegrityError(
            "source-changed",
            f"{shown(url)} is not the file that was named",
            expected=f"sha256 {sha256}",
            found=f"sha256 {state.hexdigest()}",
            kept="nothing was published",
            next="name the file again, so that its new content gets its own identity",
        )


def head_of(url: str, size: int = CHUNK) -> bytes:
    """The first bytes of a file, without its compression: at least `size` of them, if there are so many."""
    with opened(url) as stream:
        return beginning(plain(url, iter(lambda: stream.read(CHUNK), b"")), size)[0]


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one worked out in a thread while the last is used (reading and parsing hold no
    lock).
    """
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item


def pinned_to_files(op: T) -> T:
    """The import `op` with the digests and, where its `source` counts them, the names of its files as they are now."""
    given: Any = op
    if not given.digests:
        given = replace(given, digests=digests_of(given.files))
    if given.source is None and not given.names:
        given = replace(given, names=tuple(base_name(url) for url in given.files))
    pinned: T = given
    return pinned


def base_name(url: str) -> str:
    """The last part of a path or address."""
    return url.rstrip("/").rsplit("/", 1)[-1]


def check_files(who: str, files: tuple[str, ...], digests: tuple[str, ...]) -> None:
    """`ConfigError` unless there are files or digests, and as many digests as files where both are given."""
    if digests and files and len(digests) != len(files):
        raise ConfigError(
            "bad-setting", f"{who}: {len(files)} files and {len(digests)} digests", kept="nothing was started"
        )
    if not files and not digests:
        raise ConfigError("bad-setting", f"{who} names no files", expected="at least one", kept="nothing was started")


def empty(url: str) -> DataError:
    """The fault of a file without records."""
    return DataError(
        "empty-input", f"{shown(url)} holds no record", expected="at least one", kept="nothing was published"
    )
