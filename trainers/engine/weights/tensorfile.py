"""Safetensors files, read and written one tensor at a time.

A file is eight bytes of header length, a JSON header that names every tensor with its type, shape and place, and the
tensors' bytes end to end. Nothing of a header is believed before it has been held against the file's size.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from schemas.errors import DataError, printable
from schemas.store.storage import shown
from schemas.untrusted import parsing, strict_json

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The types that weights may have."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_BYTES |= {"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
_MAX_HEADER = 100 << 20


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its type's name, its shape, and where its bytes begin and end in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile:
    """A safetensors file; `DataError` if its header is not exactly that of such a file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.entries: dict[str, Entry] = _entries(path)

    def read(self, name: str, first: int = 0, last: int | None = None) -> Tensor:
        """The tensor `name`, or its rows `first` up to `last`; nothing else of the file is read."""
        entry = self.entries[name]
        dtype = DTYPES[entry.dtype]
        shape, begin, end = list(entry.shape), entry.begin, entry.end
        if last is not None:
            row = (end - begin) // shape[0]
            shape[0], begin, end = last - first, entry.begin + first * row, entry.begin + last * row
        whole = torch.empty(end - begin, dtype=torch.uint8)
        _fill(self.path, whole.numpy().data, begin)
        return whole.view(dtype).reshape(shape)


def _fill(path: str, room: memoryview, begin: int) -> None:
    with open(path, "rb", buffering=0) as file:
        file.seek(begin)
        done = 0
        while done < len(room):
            count = file.readinto(room[done : done + (64 << 20)])
            if not count:
                raise _bad(path, f"it ends {len(room) - done} bytes early")
            done += count


def _entries(path: str) -> dict[str, Entry]:
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise _bad(path, f"a header of {length} bytes in a file of {size}")
        text = file.read(length)
    with parsing(lambda words: _bad(path, f"its header: {words}")):
        header = strict_json(text)
        header.pop("__metadata__", None)
        entries = {name: _entry(fields, 8 + length) for name, fields in header.items()}
    place = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != place or entry.end - entry.begin != math.prod(entry.shape) * _BYTES[entry.dtype]:
            raise _bad(path, f"{printable(name)} does not lie where its type and shape put it")
        place = entry.end
    if place != size:
        raise _bad(path, f"its tensors end at byte {place} of {size}")
    return entries


def _entry(fields: Mapping[str, Any], start: int) -> Entry:
    begin, end = fields["data_offsets"]
    shape, dtype = tuple(fields["shape"]), fields["dtype"]
    numbers = (begin, end, *shape)
    if any(type(number) is not int or number < 0 for number in numbers) or dtype not in _BYTES or set(fields) - _FIELDS:
        raise ValueError(f"an entry {printable(fields)}")
    return Entry(dtype, shape, start + begin, start + end)


_FIELDS = {"dtype", "shape", "data_offsets"}


def _bad(path: str, reason: str) -> DataError:
    return DataError(
        "bad-safetensors",
        f"{shown(os.path.basename(path))} is no sound safetensors file",
        found=printable(reason, 200),
        where=shown(path),
        kept="nothing was written",
        next="copy the file again",
    )


class TensorWriter:
    """Writes a safetensors file whose tensors come in the order of `entries` (name, type, shape)."""

    def __init__(self, path: str, entries: Iterable[tuple[str, torch.dtype, tuple[int, ...]]]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        place = 0
        for name, dtype, shape in entries:
            end = place + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [place, end]}
            place = end
        self._waiting = [name for name in header if name != "__metadata__"]
        self._header = header
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._file = open(path, "wb")  # noqa: SIM115 - closed by __exit__
        self._file.write(len(text).to_bytes(8, "little") + text)

    def write(self, name: str, tensor: Tensor) -> None:
        """Append the next tensor that the header announces; name, type and shape must be those it says."""
        expected, fields = self._waiting.pop(0), self._header[name]
        given = [_NAMES[tensor.dtype], list(tensor.shape)]
        assert (name, *given) == (expected, fields["dtype"], fields["shape"]), (
            f"{name} {given}, wanted {expected} {fields}"
        )
        self._file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)

    def __enter__(self) -> TensorWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._file.close()
        assert kind is not None or not self._waiting, f"never written: {self._waiting}"
