"""The members of a tar, by name: where in the file each one's bytes lie. Nothing is ever unpacked.

A tar may say anything, and two readers of one need not agree. So only what can be meant in one way is read: plain files
and folders below the archive, each name once, each within the file, every header with its checksum. Long names and
sizes come from pax and GNU headers of a bounded size; links, devices, sparse files and the rest are refused by name.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from schemas.errors import IntegrityError, printable
from schemas.store.storage import shown

_BLOCK = 512
_MOST_MEMBERS, _MOST_NAME, _MOST_HEADER = 1 << 18, 4096, 1 << 16
_MOST_SIZE = 1 << 43
_END = bytes(_BLOCK)
_PLAIN, _FOLDER, _PAX, _LONG_NAME = (b"0", b"\0"), b"5", b"x", b"L"
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a pipe",
    b"S": "a sparse file",
    b"g": "a header for all that follows",
}
_PAX_KEYS = {"path", "size", "mtime", "atime", "ctime", "uid", "gid", "uname", "gname", "comment"}


@dataclass(frozen=True)
class Span:
    """Where a member's bytes lie in the tar."""

    offset: int
    size: int


class Forwards(Protocol):
    """A file that is read from its beginning on, once."""

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes; fewer at the end."""

    def seek(self, place: int, /) -> object:
        """Go on at `place`, which lies ahead."""

    def tell(self) -> int:
        """How many bytes lie behind it."""


def is_tar(start: bytes) -> bool:
    """Whether a file that begins with `start` (512 bytes) can be a tar."""
    return len(start) == _BLOCK and start != _END and _checksum_fits(start)


def members(file: Forwards, where: str) -> Iterator[tuple[str, Span]]:
    """Name and place of every plain file of the tar `file`, in their order; `IntegrityError` for one that is broken or
    could be meant in two ways. `file` is only read forwards, so it may be one that is unpacked on the way.
    """
    seen: set[str] = set()
    folders: set[str] = set()
    for name, kind, span in _headers(file, where):
        clean = _clean(name, where)
        if not clean:
            if kind != _FOLDER:
                raise bad_archive(where, "a file without a name")
            continue
        above = [clean[:place] for place, letter in enumerate(clean) if letter == "/"]
        if clean in seen or (kind != _FOLDER and clean in folders):
            raise bad_archive(where, f"{printable(clean, 120)} twice")
        if taken := next((one for one in above if one in seen), None):
            raise bad_archive(where, f"{printable(taken, 120)} as a file and as a folder")
        folders.update(above)
        if kind == _FOLDER:
            folders.add(clean)
        else:
            seen.add(clean)
            yield clean, span
        if len(seen) + len(folders) > _MOST_MEMBERS:
            raise bad_archive(where, f"more than {_MOST_MEMBERS:,} members")


def _headers(file: Forwards, where: str) -> Iterator[tuple[str, bytes, Span]]:
    """Name, kind and place of every file and folder, with what the headers before it say."""
    place, given = 0, dict[str, str]()
    while True:
        header = _exactly(file, _BLOCK, where)
        place += _BLOCK
        if header == _END:
            _check_rest(file, where)
            return
        if not _checksum_fits(header):
            raise bad_archive(where, f"a header at byte {place - _BLOCK:,} whose checksum is another")
        kind, size = header[156:157], _number(header[124:136], where)
        if kind in (_PAX, _LONG_NAME):
            if size > _MOST_HEADER:
                raise bad_archive(where, f"a header of {size:,} bytes")
            data = _exactly(file, _padded(size), where)[:size]
            given |= _pax(data, where) if kind == _PAX else {"path": _text(data.split(b"\0")[0], where)}
            place += _padded(size)
            continue
        name = given.get("path", _name(header, where))
        if kind not in (*_PLAIN, _FOLDER):
            raise bad_archive(where, f"{printable(name, 120)}: {_KINDS.get(kind, f'a member of kind {kind!r}')}")
        if "size" in given:
            size = _decimal(given["size"], where)
        if size > _MOST_SIZE:
            raise bad_archive(where, f"{printable(name, 120)}: {size:,} bytes")
        if kind == _FOLDER and size:
            raise bad_archive(where, f"{printable(name, 120)}: a folder of {size:,} bytes")
        yield name, kind, Span(place, size)
        _skip(file, place + _padded(size), where)
        place, given = place + _padded(size), {}


def _clean(name: str, where: str) -> str:
    """The name below the archive, without `./`; `IntegrityError` for one that leads elsewhere."""
    parts = [part for part in name.rstrip("/").split("/") if part != "."]
    odd = "\\" in name or any(not letter.isprintable() for letter in name)
    if name.startswith("/") or odd or len(name) > _MOST_NAME or (parts not in ([], [""]) and {"", ".."} & set(parts)):
        raise bad_archive(where, f"the name {printable(name, 120)}")
    return "/".join(parts)


def _name(header: bytes, where: str) -> str:
    name = _text(header[:100].split(b"\0")[0], where)
    prefix = _text(header[345:500].split(b"\0")[0], where) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _pax(data: bytes, where: str) -> dict[str, str]:
    """The records of a pax header: their length, key=value, a line end."""
    records: dict[str, str] = {}
    while data:
        length, _, _ = data.partition(b" ")
        size = _decimal(_text(length[:8], where), where)
        record = data[:size]
        key, equals, value = _text(record[len(length) + 1 : -1], where).partition("=")
        if not equals or len(record) != size or not record.endswith(b"\n") or key in records:
            raise bad_archive(where, "a broken pax header")
        if key not in _PAX_KEYS:
            raise bad_archive(where, f"a pax header with {printable(key, 80)}")
        records[key] = value
        data = data[size:]
    return records


def _number(field: bytes, where: str) -> int:
    """A number of a header: octal digits, or from 8 GiB on bytes behind a first one of 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0")
    if not text or any(digit not in b"01234567" for digit in text):
        raise bad_archive(where, "a size that is no number")
    return int(text, 8)


def _decimal(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise bad_archive(where, f"the size {printable(text, 40)}")
    return int(text)


def _checksum_fits(header: bytes) -> bool:
    digits = header[148:156].strip(b" \0")
    if not digits or any(digit not in b"01234567" for digit in digits):
        return False
    return int(digits, 8) == sum(header) - sum(header[148:156]) + 8 * ord(" ")


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise bad_archive(where, "a name that is no UTF-8") from None


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _exactly(file: Forwards, size: int, where: str) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise bad_archive(where, "an end before it should be")
    return data


def _skip(file: Forwards, place: int, where: str) -> None:
    """Go on at `place`, of which the byte before must be there."""
    if place > file.tell():
        file.seek(place - 1)
        _exactly(file, 1, where)


def _check_rest(file: Forwards, where: str) -> None:
    """Behind the end nothing may stand that another reader would take for members."""
    for _ in range(_MOST_HEADER):
        if not (block := file.read(_BLOCK)):
            return
        if block.strip(b"\0"):
            break
    raise bad_archive(where, "something behind its end")


def bad_archive(where: str, what: str) -> IntegrityError:
    """The error for an archive that has `what`, which no archive of NeMo has."""
    return IntegrityError(
        "bad-archive",
        f"{shown(where)} is no archive that can be read",
        expected="a tar of plain files, as NeMo writes it",
        found=what,
        where=where,
        kept="everything; nothing was unpacked",
        next="copy the archive again; do not unpack one that you do not trust",
    )


def is_plain(mode: int) -> bool:
    """Whether a file of this mode is one of bytes, and no device or pipe."""
    return stat.S_ISREG(mode)
