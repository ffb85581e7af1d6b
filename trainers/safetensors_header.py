"""The header of a safetensors file: every tensor's type, shape and place, held against the file's size.

A file is eight bytes of header length, a JSON header, and the tensors' bytes end to end. Nothing of a header is
believed before it has been checked.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.errors import DataError, printable
from schemas.store.storage import shown
from schemas.untrusted import parsing, strict_json

_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_BYTES |= {"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
_MAX_HEADER = 100 << 20
_MAX_DIMENSIONS = 64


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its type's name, its shape, and where its bytes begin and end in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def entries(path: str) -> dict[str, Entry]:
    """The tensors of the file `path` by name; `DataError` if its header is not exactly that of such a file."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise bad_file(path, f"a header of {length} bytes in a file of {size}")
        text = file.read(length)
    with parsing(lambda words: bad_file(path, f"its header: {words}")):
        header = strict_json(text)
        header.pop("__metadata__", None)
        named = {name: _entry(fields, 8 + length) for name, fields in header.items()}
    place = 8 + length
    for name, entry in sorted(named.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != place or entry.end - entry.begin != math.prod(entry.shape) * _BYTES[entry.dtype]:
            raise bad_file(path, f"{printable(name)} does not lie where its type and shape put it")
        place = entry.end
    if place != size:
        raise bad_file(path, f"its tensors end at byte {place} of {size}")
    return named


def _entry(fields: Mapping[str, Any], start: int) -> Entry:
    begin, end = fields["data_offsets"]
    shape, dtype = tuple(fields["shape"]), fields["dtype"]
    if len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"an entry of {len(shape)} dimensions")
    if any(type(number) is not int or not 0 <= number < 1 << 63 for number in (begin, end, *shape)):
        raise ValueError("an entry with other numbers than sizes and places in a file")
    if dtype not in _BYTES or set(fields) - _FIELDS:
        raise ValueError(f"an entry {printable(fields)}")
    return Entry(dtype, shape, start + begin, start + end)


_FIELDS = {"dtype", "shape", "data_offsets"}


def bad_file(path: str, reason: str) -> DataError:
    """The error for a file that is no sound one."""
    return DataError(
        "bad-safetensors",
        f"{shown(os.path.basename(path))} is no sound safetensors file",
        found=printable(reason, 200),
        where=shown(path),
        kept="nothing was written",
        next="copy the file again",
    )
