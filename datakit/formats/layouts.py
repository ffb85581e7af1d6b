r"""What an outside file is, seen by its first bytes, and the operation that reads it.

    PAR1                             Parquet              io.parquet
    ARROW1, or an Arrow stream       Arrow                io.arrow; also a folder that `datasets` saved
    { in each line                   JSON Lines           io.jsonl, layout lines
    [                                one JSON list        io.jsonl, layout array
    { over the whole file            an object of a list  io.jsonl, layout object
    .csv, .tsv                       columns of text      io.csv, divided by commas, semicolons or tabs
    \x93NUMPY                        packed sequences     io.npy

Endings may be in any case, and a compression's ending may follow: `.gz .bz2 .xz .zst`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Any

from datakit.formats.saved import is_saved
from datakit.formats.sources import head_of
from schemas.errors import ConfigError, printable
from schemas.store.storage import normal

ENDINGS = {
    ".json": "io.jsonl", ".jsonl": "io.jsonl", ".ndjson": "io.jsonl", ".csv": "io.csv", ".tsv": "io.csv",
    ".parquet": "io.parquet", ".arrow": "io.arrow", ".npy": "io.npy",
}  # fmt: skip
"""Endings of names, in lower case, and the operation that reads such a file."""

_HEADER = 1 << 16
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_MAGIC = {b"PAR1": "io.parquet", b"ARROW1": "io.arrow", b"\xff\xff\xff\xff": "io.arrow", b"\x93NUMPY": "io.npy"}
_OPEN_LIST = re.compile(rb"\s*\[\s*(\{|\Z)")
_DECODER = json.JSONDecoder(parse_int=str)


def reader_of(files: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """Name and settings of the operation that reads `files`; `ConfigError` where there is none, or several."""
    readers = {_reader(file) for file in files}
    if len(readers) != 1 or None in readers:
        raise ConfigError(
            "file-kind",
            f"{printable(', '.join(files), 200)}: there is no dataset there, and no way to read it",
            expected=f"a dataset folder, or files of one kind that end in {' '.join(ENDINGS)} (in any case, plain or "
            f"with {' '.join(_COMPRESSED)})",
            kept="nothing was started",
            next="give the file the ending of what it holds",
        )
    name = readers.pop() or ""
    if name != "io.csv":
        return name, {}
    delimiter, *others = sorted({_delimiter(file) for file in files})
    if others:
        raise ConfigError(
            "file-kind", "cells of these files are divided in different ways", expected="commas, semicolons or tabs",
            found=printable(", ".join(files), 200), kept="nothing was started", next="read them one by one",
        )  # fmt: skip
    return name, {} if delimiter == "," else {"delimiter": delimiter}


def _delimiter(file: str) -> str:
    """What divides the cells of `file`: tabs by its ending, else what stands in its header. Spreadsheets write
    semicolons where a comma is part of numbers.
    """
    if _ending(file) == ".tsv":
        return "\t"
    header = head_of(file, _HEADER).partition(b"\n")[0]
    return next((mark for mark in ",;\t" if mark.encode() in header), ",")


def _reader(file: str) -> str | None:
    """By the first bytes where they say it, or else by the ending."""
    if is_saved(file):
        return "io.arrow"
    head = head_of(file, 64).removeprefix(b"\xef\xbb\xbf")
    by_magic = next((reader for magic, reader in _MAGIC.items() if head.startswith(magic)), None)
    named = ENDINGS.get(_ending(file))
    if by_magic is not None or named in ("io.parquet", "io.arrow", "io.npy"):
        return by_magic or named
    return named or ("io.jsonl" if head.lstrip()[:1] in (b"{", b"[") else None)


def _ending(file: str) -> str:
    place = normal(file).lower()
    for ending in _COMPRESSED:
        place = place.removesuffix(ending)
    return PurePosixPath(place).suffix


def json_layout(head: bytes, whole: bool, record_keys: Collection[str]) -> tuple[str, str]:
    """`lines`, `array` or `object` of a JSON file that begins with `head` (`whole`: that is all of it), and for an
    object the key of its list.

    `record_keys` are the keys that a record may have: an object with one of them is a record, one without and with a
    list of objects holds its records there.
    """
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"["):
        return "array", ""
    if not text.startswith(b"{"):
        return "lines", ""
    line, _, more = text.partition(b"\n")
    keys = _keys(line)
    if keys is not None and (more.strip() or not whole or not keys.isdisjoint(record_keys)):
        return "lines", ""
    key = _list_key(text, record_keys)
    return ("object", key) if key else ("lines", "")


def _keys(line: bytes) -> set[str] | None:
    """The keys of a line that is one object; None for any other."""
    try:
        row = json.loads(line, parse_int=str)
    except (ValueError, RecursionError):
        return None
    return set(row) if isinstance(row, dict) else None


def _list_key(text: bytes, record_keys: Collection[str]) -> str:
    """The first key of an object whose value is a list of objects, or else an empty list, unless a key of a record
    comes before it.
    """
    characters, at, nothing = text.decode("utf-8", "ignore"), 1, ""
    try:
        while True:
            at = _blank(characters, at)
            key, at = _DECODER.raw_decode(characters, at)
            at = _blank(characters, at)
            if not isinstance(key, str) or key in record_keys or characters[at] != ":":
                return ""
            if _OPEN_LIST.match(characters[at + 1 : at + 1000].encode()):
                return key
            value, at = _DECODER.raw_decode(characters, _blank(characters, at + 1))
            nothing = nothing or (key if value == [] else "")
            at = _blank(characters, at)
            if characters[at] != ",":
                return nothing
            at += 1
    except (ValueError, IndexError, RecursionError):
        return nothing


def _blank(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at
