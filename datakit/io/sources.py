"""Outside files as hashed byte streams: what was read is what was named, by SHA-256, wherever the file lies.

Gzip is recognised by its first bytes, not by a name. A file that changed since its digest was taken, or that
ends inside a gzip member, is a `DataError` or `IntegrityError`, never a short read.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from schemas.errors import ConfigError, DataError, IntegrityError
from schemas.storage import guarded, named_file, shown

CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"
_BOMB_RATIO, _BOMB_BYTES = 400, 1 << 26


@contextmanager
def opened(url: str) -> Iterator[BinaryIO]:
    """A binary reader of `url`, through links; `ConfigError` if there is no such file or it may not be opened."""
    store, path = named_file(url)
    with guarded("read", url):
        try:
            stream = store.open(path)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise ConfigError("no-such-file", f"there is no file {shown(url)}", kept="nothing was started") from error
        with stream:
            yield stream


def digests_of(files: tuple[str, ...]) -> tuple[str, ...]:
    """SHA-256 (hex) of each file's bytes as stored."""
    found = []
    for url in files:
        with opened(url) as stream:
            found.append(_sha256(stream))
    return tuple(found)


def _sha256(stream: BinaryIO) -> str:
    state = hashlib.sha256()
    while data := stream.read(CHUNK):
        state.update(data)
    return state.hexdigest()


def checked(url: str, stream: BinaryIO, digest: str) -> Iterator[bytes]:
    """The stored bytes of `stream` in chunks; `IntegrityError` at the end if they are not those of
    `digest`.
    """
    state = hashlib.sha256()
    while data := stream.read(CHUNK):
        state.update(data)
        yield data
    if state.hexdigest() != digest:
        raise IntegrityError(
            "source-changed",
            f"{shown(url)} is not the file that was named",
            expected=f"sha256 {digest}",
            found=f"sha256 {state.hexdigest()}",
            kept="nothing was published",
            next="name the file again, so that its new content gets its own identity",
        )


def plain(url: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """`chunks` without their gzip, if they have one; memory stays at one chunk whatever a member expands
    to.
    """
    head = next(chunks, b"")
    if not head.startswith(_GZIP):
        if head:
            yield head
        yield from chunks
        return
    inflate, stored, given, data = zlib.decompressobj(31), 0, 0, head
    while data:
        stored += len(data)
        while data:
            try:
                piece = inflate.decompress(data, CHUNK)
            except zlib.error as error:
                raise _broken(url, str(error)) from error
            given += len(piece)
            if given > _BOMB_BYTES and given > _BOMB_RATIO * stored:
                raise DataError("too-large", f"{shown(url)} expands {given // stored} times", expected=f"{_BOMB_RATIO}")
            if piece:
                yield piece
            data = inflate.unconsumed_tail
            if inflate.eof:
                data = inflate.unused_data.lstrip(b"\x00")
                if data:
                    inflate = zlib.decompressobj(31)
        data = next(chunks, b"")
        if data and inflate.eof:
            inflate = zlib.decompressobj(31)
    if not inflate.eof:
        raise _broken(url, "it ends inside a gzip member")


def _broken(url: str, why: str) -> DataError:
    return DataError("broken-gzip", f"{shown(url)} is not a whole gzip file: {why}", kept="nothing was published")
