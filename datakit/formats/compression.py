"""Compressed inputs as plain chunks: gzip, bzip2, xz and Zstandard, recognised by their first bytes.

Memory stays at a chunk whatever a stream expands to. A stream that expands beyond `RATIO` times its stored bytes (and
beyond `FLOOR`) is refused as `too-large`, one that is torn as `broken-<kind>`.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import pyarrow as pa

from schemas.errors import DataError
from schemas.store.storage import shown

CHUNK = 1 << 20
RATIO, FLOOR = 400, 1 << 26
"""An input may expand to `FLOOR` bytes, or to `RATIO` times what is stored."""

_XZ_MEMORY = 1 << 28


class _Member(Protocol):
    """One compressed stream of those that may follow each other in a file, as `bz2` and `lzma` have it."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes out of what was given."""

    @property
    def unused_data(self) -> bytes:
        """What was given beyond the end."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` bytes; what is left of `data` is kept for the next call."""


class _Gzip:
    """`zlib` with the interface of `bz2.BZ2Decompressor`."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(31)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data.lstrip(b"\x00")


_MEMBERS: dict[bytes, tuple[str, Callable[[], _Member]]] = {
    b"\x1f\x8b": ("gzip", _Gzip),
    b"BZh": ("bzip2", bz2.BZ2Decompressor),
    b"\xfd7zXZ\x00": ("xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)),
}
_ZSTD = b"\x28\xb5\x2f\xfd"


def plain(url: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """`chunks` without their compression, if they have one."""
    head = next(chunks, b"")
    stored = _Stored(head, chunks)
    member = next((kind for magic, kind in _MEMBERS.items() if head.startswith(magic)), None)
    if member is not None:
        yield from _capped(url, stored, _members(url, stored, *member))
    elif head.startswith(_ZSTD):
        yield from _capped(url, stored, _zstd(url, stored))
    else:
        if head:
            yield head
        yield from chunks


def beginning(chunks: Iterator[bytes], size: int = CHUNK) -> tuple[bytes, bool]:
    """The first `size` bytes, or a chunk more, and whether that is all."""
    parts: list[bytes] = []
    for chunk in chunks:
        parts.append(chunk)
        size -= len(chunk)
        if size <= 0:
            return b"".join(parts), False
    return b"".join(parts), True


def too_large(url: str, given: int, stored: int) -> DataError:
    """The fault of an input that expands beyond the cap."""
    return DataError(
        "too-large",
        f"{shown(url)} expands to more than {given} bytes out of {stored}",
        expected=f"at most {RATIO} times what is stored, or {FLOOR} bytes",
        kept="nothing was published",
        next="if that is right, expand the file yourself and name what comes out",
    )


class _Stored(io.RawIOBase):
    """The stored chunks, counted; also a reader for libraries that ask for one."""

    def __init__(self, head: bytes, chunks: Iterator[bytes]) -> None:
        self._head, self._chunks, self.count = head, chunks, 0

    def chunk(self) -> bytes:
        """The next chunk; empty at the end."""
        data, self._head = self._head or next(self._chunks, b""), b""
        self.count += len(data)
        return data

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self.chunk()
        if 0 <= size < len(data):
            data, self._head = data[:size], data[size:]
            self.count -= len(self._head)
        return data


def _capped(url: str, stored: _Stored, pieces: Iterator[bytes]) -> Iterator[bytes]:
    given = 0
    for piece in pieces:
        given += len(piece)
        if given > FLOOR and given > RATIO * stored.count:
            raise too_large(url, given, stored.count)
        yield piece


def _members(url: str, stored: _Stored, kind: str, new: Callable[[], _Member]) -> Iterator[bytes]:
    member, data = new(), stored.chunk()
    while data:
        if member.eof:
            member = new()
        try:
            piece = member.decompress(data, CHUNK)
            while piece or not (member.needs_input or member.eof):
                if piece:
                    yield piece
                if member.eof:
                    break
                piece = member.decompress(b"", CHUNK)
        except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError) as error:
            raise _broken(url, kind, str(error)) from error
        data = (member.unused_data.lstrip(b"\x00") if member.eof else b"") or stored.chunk()
    if not member.eof:
        raise _broken(url, kind, f"it ends inside a {kind} member")


def _zstd(url: str, stored: _Stored) -> Iterator[bytes]:
    try:
        with pa.CompressedInputStream(pa.PythonFile(stored, mode="r"), "zstd") as stream:
            while piece := stream.read(CHUNK):
                yield piece
    except (pa.ArrowException, OSError) as error:
        raise _broken(url, "zstd", str(error)) from error


def _broken(url: str, kind: str, why: str) -> DataError:
    return DataError(
        f"broken-{kind}", f"{shown(url)} is not a whole {kind} file: {shown(why)}", kept="nothing was published"
    )
