"""The files of a model of NeMo by name: members of a `.nemo` file (a tar, plain or gzip), or of a folder.

A plain tar is read where it lies. One that gzip packed is unpacked as a whole into a private file first, which goes
with its reader; a pack that grows beyond all measure is stopped.
"""

from __future__ import annotations

import functools
import gzip
import io
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any

from schemas.errors import ConfigError, IntegrityError, printable
from schemas.nemo.tar import bad_archive, is_plain, is_tar, members
from schemas.store.scratch import Scratch
from schemas.store.storage import guarded, shown

SMALL = 32 << 20
"""Bytes of the largest settings or tokenizer file."""
_ALL_SMALL = 256 << 20
_RATIO, _SLACK = 64, 64 << 20
"""How many times its own size a gzip file may unpack to; weights hardly shrink."""
_GZIP, _CHUNK, _MOST_FILES = b"\x1f\x8b", 1 << 20, 1 << 18
_ENDING = ".nemo"


@dataclass(frozen=True)
class Piece:
    """Bytes of the file `path`: `size` of them from `offset` on."""

    path: str
    offset: int
    size: int

    def read_into(self, room: memoryview, at: int) -> None:
        """Fill `room` with what stands at `at` of the piece; `IntegrityError` where it ends before."""
        if at < 0 or at + len(room) > self.size:
            raise bad_archive(self.path, "bytes beyond the end of a member")
        with guarded("read", self.path), open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset + at)
            done = 0
            while done < len(room):
                count = file.readinto(room[done : done + (64 << 20)])
                if not count:
                    raise bad_archive(self.path, "an end before it should be")
                done += count

    def part(self, offset: int, size: int) -> Piece:
        """The piece of this piece; `IntegrityError` for one that goes beyond it."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise bad_archive(self.path, "a place beyond the end of a member")
        return Piece(self.path, self.offset + offset, size)

    def bytes(self, limit: int = SMALL) -> bytes:
        """All of it, where that is at most `limit` bytes; `IntegrityError` for more."""
        if self.size > limit:
            raise bad_archive(self.path, f"{self.size:,} bytes where at most {limit:,} make sense")
        data = bytearray(self.size)
        self.read_into(memoryview(data), 0)
        return bytes(data)

    def open(self, most_at_once: int = SMALL) -> Window:
        """The piece as a file, of which at most `most_at_once` bytes are read together."""
        return Window(self, most_at_once)


class Window(io.RawIOBase):
    """A piece of a file as a file of its own."""

    def __init__(self, piece: Piece, most_at_once: int) -> None:
        self._piece, self._at, self._most = piece, 0, most_at_once

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._piece.size}[whence]
        if base + offset < 0:
            raise ValueError("before the beginning")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes; `IntegrityError` for more at once than a header has."""
        left = max(0, self._piece.size - self._at)
        count = left if size is None or size < 0 else min(size, left)
        if count > self._most:
            raise bad_archive(self._piece.path, f"a header of {count:,} bytes")
        data = bytearray(count)
        self._piece.read_into(memoryview(data), self._at)
        self._at += count
        return bytes(data)

    def readinto(self, buffer: Any) -> int:
        room = memoryview(buffer).cast("B")
        data = self.read(len(room))
        room[: len(data)] = data
        return len(data)


class Archive:
    """The files of the `.nemo` file or folder `path` by name: `pieces`. To be closed, or used in a `with`."""

    def __init__(self, path: str) -> None:
        self.path = path
        folder = os.path.isdir(path)
        self._scratch = None if folder or not is_packed(path) else Scratch("quiver-nemo-")
        try:
            self.pieces: Mapping[str, Piece] = _in_folder(path) if folder else _in_tar(self._unpacked(), path)
        except BaseException:
            self.close()
            raise

    def _unpacked(self) -> str:
        """The plain tar: the file itself, or what it was packed from, in the private folder."""
        if self._scratch is None:
            return self.path
        spool = os.path.join(self._scratch.path, "archive.tar")
        _unpack(self.path, spool)
        return spool

    def close(self) -> None:
        """Remove the private file, where there is one."""
        if self._scratch is not None:
            self._scratch.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_packed(path: str) -> bool:
    """Whether gzip packed the file."""
    with guarded("read", path), open(path, "rb") as file:
        return file.read(2) == _GZIP


def is_archive(path: str) -> bool:
    """Whether `path` is a file that calls itself `.nemo`, or a tar with another ending."""
    if not os.path.isfile(path):
        return False
    if path.endswith(_ENDING):
        return True
    with guarded("read", path), open(path, "rb") as file:
        return is_tar(file.read(512))


def small_files(path: str) -> Mapping[str, bytes]:
    """All files of the archive or folder `path` that are small enough to be settings, by name; nothing is written."""
    if os.path.isdir(path):
        return _small_files(path)
    state = os.stat(path)
    return _small_in_file(path, state.st_ino, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _small_in_file(path: str, *state: int) -> Mapping[str, bytes]:
    """Those of a file in this `state`: a pack is read from end to end for them, so once."""
    return _small_in_pack(path) if is_packed(path) else _small_files(path)


def _small_files(path: str) -> Mapping[str, bytes]:
    with Archive(path) as archive:
        pieces = {name: piece for name, piece in archive.pieces.items() if _is_setting(name, piece.size)}
        _check_small(sum(piece.size for piece in pieces.values()), path)
        return {name: piece.bytes() for name, piece in pieces.items()}


def _small_in_pack(path: str) -> Mapping[str, bytes]:
    files: dict[str, bytes] = {}
    with guarded("read", path), open(path, "rb") as packed:
        stream = _Unpacking(packed, path)
        for name, span in members(stream, path):
            if _is_setting(name, span.size):
                files[name] = stream.read(span.size)
                _check_small(sum(map(len, files.values())), path)
    return files


def _is_setting(name: str, size: int) -> bool:
    return size <= SMALL and name.endswith((".yaml", ".json", ".model", ".txt", ".jinja"))


def _check_small(total: int, path: str) -> None:
    if total > _ALL_SMALL:
        raise bad_archive(path, f"more than {_ALL_SMALL:,} bytes of settings")


class _Unpacking:
    """What a gzip file holds, read forwards; it is stopped where it makes too much of too little."""

    def __init__(self, packed: IO[bytes], path: str) -> None:
        self._file, self._path, self._at = gzip.GzipFile(fileobj=packed, mode="rb"), path, 0
        self._most = _RATIO * os.fstat(packed.fileno()).st_size + _SLACK

    def read(self, size: int) -> bytes:
        """The next bytes; `IntegrityError` where they are no gzip's, or more than that file can hold."""
        try:
            data = self._file.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise bad_archive(self._path, f"gzip: {printable(error, 120)}") from None
        self._at += len(data)
        if self._at > self._most:
            raise bad_archive(self._path, f"gzip: more than {_RATIO} times the file's own size")
        return data

    def seek(self, place: int) -> None:
        """Read on up to `place`, or to the end."""
        while place > self._at and self.read(min(_CHUNK, place - self._at)):
            pass

    def tell(self) -> int:
        return self._at


def _unpack(path: str, spool: str) -> None:
    with guarded("read", path), open(path, "rb") as packed, open(spool, "xb", opener=_private) as file:
        stream = _Unpacking(packed, path)
        while data := stream.read(_CHUNK):
            with guarded("write", spool):
                file.write(data)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _in_tar(file_path: str, path: str) -> dict[str, Piece]:
    with guarded("read", file_path), open(file_path, "rb") as file:
        return {name: Piece(file_path, span.offset, span.size) for name, span in members(file, path)}


def _in_folder(path: str) -> dict[str, Piece]:
    """Plain files below the folder; links to folders are not followed."""
    pieces: dict[str, Piece] = {}
    with guarded("list", path):
        for here, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                file = os.path.join(here, name)
                state = os.stat(file)
                if not is_plain(state.st_mode):
                    raise _odd(path, os.path.relpath(file, path))
                pieces[os.path.relpath(file, path)] = Piece(file, 0, state.st_size)
                if len(pieces) > _MOST_FILES:
                    raise bad_archive(path, f"more than {_MOST_FILES:,} files")
    return pieces


def _odd(path: str, name: str) -> IntegrityError:
    return bad_archive(path, f"{printable(name, 120)}: neither a file nor a folder")


def missing(path: str, what: str, there: str) -> ConfigError:
    """The error for a file or folder that is no model of NeMo."""
    return ConfigError(
        "not-a-nemo-model",
        f"{shown(path)} is no model of NeMo",
        expected=what,
        found=there,
        where=path,
        kept="nothing was written",
    )
