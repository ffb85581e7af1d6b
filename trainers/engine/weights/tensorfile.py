"""Safetensors files, read and written one tensor at a time; what their headers say is `trainers.safetensors_header`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from trainers.safetensors_header import Entry, bad_file, entries

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The types that weights may have."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class TensorFile:
    """A safetensors file; `DataError` if its header is not exactly that of such a file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.entries: dict[str, Entry] = entries(path)

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
                raise bad_file(path, f"it ends {len(room) - done} bytes early")
            done += count


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
