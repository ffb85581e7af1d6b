"""Files that `torch.save` wrote, read without running anything of them: which tensors they hold, and where.

Such a file is a zip of a pickle, which says names, types and shapes, and of the numbers, one file for each storage. The
pickle is read by a reader that knows a dictionary and a tensor's place and nothing else; a tensor's bytes are read when
it is asked for. So neither memory nor this process is the file's to use.
"""

from __future__ import annotations

import math
import pickle  # only ever through the restricted reader below
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, ClassVar, cast

import torch
from torch import Tensor

from schemas.errors import IntegrityError, QuiverError, printable
from schemas.nemo.archive import Piece

_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}  # fmt: skip
_PICKLE, _LOCAL_HEADER, _LOCAL_MARK, _MOST_DIMENSIONS = "data.pkl", 30, b"PK\3\4", 64


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True)
class _View:
    """A tensor as the pickle says it: numbers of a storage, from the one at `offset` on."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Nothing:
    """What is no tensor, and never looked at: bytes that a layer keeps beside its weights."""

    def __init__(self, *given: object) -> None:
        """Keep none of what it was made with."""


class Placed:
    """A tensor of a file: its type and shape, and `read` for its numbers."""

    def __init__(self, view: _View, piece: Piece) -> None:
        self._view, self._piece = view, piece
        self.dtype, self.shape = view.storage.dtype, view.shape

    def read(self, first: int = 0, last: int | None = None) -> Tensor:
        """The tensor, or its rows `first` up to `last`; nothing else of the file is read."""
        view, width = self._view, self.dtype.itemsize
        shape, begin = list(view.shape), view.offset
        if last is not None:
            shape[0], begin = last - first, begin + first * view.stride[0]
        span = 1 + sum((size - 1) * step for size, step in zip(shape, view.stride, strict=True)) if all(shape) else 0
        room = torch.empty(span * width, dtype=torch.uint8)
        self._piece.read_into(room.numpy().data, begin * width)
        return torch.as_strided(room.view(self.dtype), shape, view.stride).contiguous()


class TorchFile:
    """The tensors of the file that `piece` is, by name (one alone: the empty name); `IntegrityError` if it is not
    exactly such a file, of tensors and plain values.
    """

    def __init__(self, piece: Piece, name: str) -> None:
        self.name = name
        with reading(piece, name):
            with zipfile.ZipFile(cast("IO[bytes]", piece.open())) as zipped:
                entries = _entries(zipped)
            main = [entry for entry in entries if entry.rpartition("/")[2] == _PICKLE]
            if len(main) != 1:
                raise ValueError(f"{len(main)} pickles")
            folder = main[0].removesuffix(_PICKLE)
            if (order := entries.get(f"{folder}byteorder")) and _place(piece, order).bytes(16) != b"little":
                raise ValueError("numbers in another order of bytes")
            content = _Reader(_place(piece, entries[main[0]]).open(), dict(entries), folder).load()
            views = _views(content)
            self.tensors: Mapping[str, Placed] = {
                one: Placed(view, _storage(piece, entries, folder, view)) for one, view in views.items()
            }


def _entries(zipped: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files of a zip by name: none twice, none packed."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in zipped.infolist():
        if entry.filename in entries or entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise ValueError(f"{printable(entry.filename, 80)} twice, packed or locked")
        if entry.compress_size != entry.file_size:
            raise ValueError(f"two sizes of {printable(entry.filename, 80)}")
        entries[entry.filename] = entry
    return entries


def _place(piece: Piece, entry: zipfile.ZipInfo) -> Piece:
    """Where a file of the zip lies: behind its header, whose last two parts have a size of their own."""
    header = piece.part(entry.header_offset, _LOCAL_HEADER).bytes()
    if header[:4] != _LOCAL_MARK:
        raise ValueError(f"no header before {printable(entry.filename, 80)}")
    behind = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return piece.part(entry.header_offset + _LOCAL_HEADER + behind, entry.file_size)


def _storage(piece: Piece, entries: Mapping[str, zipfile.ZipInfo], folder: str, view: _View) -> Piece:
    """The bytes of a tensor's storage; `ValueError` where the tensor goes beyond them."""
    place = _place(piece, entries[f"{folder}data/{view.storage.key}"])
    last = sum((size - 1) * step for size, step in zip(view.shape, view.stride, strict=True))
    if place.size != view.storage.count * view.storage.dtype.itemsize:
        raise ValueError("a storage of another size")
    if math.prod(view.shape) and view.offset + last >= view.storage.count:
        raise ValueError("a tensor beyond its storage")
    return place


def _views(content: Any) -> dict[str, _View]:
    """The tensors of what was pickled: one, or those of a dictionary, or of its `state_dict`."""
    if isinstance(content, _View):
        return {"": content}
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise TypeError("no tensors by name")
    return {name: value for name, value in content.items() if isinstance(value, _View)}


class _Reader(pickle._Unpickler):
    """Reads dictionaries, lists, texts, numbers and the places of tensors; whatever else a pickle asks for is refused.

    Python's own reader rather than the faster one, whose memory grows with a number that the pickle names.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def __init__(self, file: Any, entries: Mapping[str, Any], folder: str) -> None:
        super().__init__(file)
        self._keys = {name.removeprefix(f"{folder}data/") for name in entries}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) in _CALLED:
            return _CALLED[module, name]
        raise pickle.UnpicklingError(f"{module}.{name} has no place among tensors")

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that is named: its type, its file and its size."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or key not in self._keys or type(count) is not int:
            raise pickle.UnpicklingError("a storage that is not there")
        return _Storage(dtype, key, count)

    def _reduce(self) -> None:
        given = self.stack.pop()
        called = self.stack[-1]
        if not any(called is one for one in _CALLED.values()):
            raise pickle.UnpicklingError("a call")
        self.stack[-1] = called(*given)

    def _new(self) -> None:
        """Bytes beside the weights, which nobody looks at."""
        self.stack.pop()
        if self.stack[-1] is not _Nothing:
            raise pickle.UnpicklingError("an object")
        self.stack[-1] = _Nothing()

    def _build(self) -> None:
        """A dictionary's attributes are let go, and so are those bytes."""
        self.stack.pop()
        if type(self.stack[-1]) not in (OrderedDict, _Nothing):
            raise pickle.UnpicklingError("an object with a state")

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("an object")

    dispatch[pickle.REDUCE[0]] = _reduce
    dispatch[pickle.NEWOBJ[0]] = _new
    dispatch[pickle.BUILD[0]] = _build
    for _code in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4):
        dispatch[_code[0]] = _refuse
    del _code


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> _View:
    if rest[2:] and rest[2]:  # behind requires_grad and hooks: that the numbers are to be read negated or conjugated
        raise pickle.UnpicklingError("a tensor that is a view with another sign")
    numbers = [offset, *shape, *stride]
    whole = all(type(number) is int and 0 <= number < 1 << 62 for number in numbers)
    if not isinstance(storage, _Storage) or not whole or not len(shape) == len(stride) <= _MOST_DIMENSIONS:
        raise pickle.UnpicklingError("a tensor that is none")
    return _View(storage, offset, tuple(shape), tuple(stride))


def _parameter(data: Any, *_: Any) -> Any:
    return data


_CALLED: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("_io", "BytesIO"): _Nothing,
    ("_codecs", "encode"): _Nothing,
}


@contextmanager
def reading(piece: Piece, name: str) -> Iterator[None]:
    """Turns whatever goes wrong within into the `IntegrityError` that the file `name` cannot be read."""
    try:
        yield
    except (QuiverError, OSError):
        raise
    except Exception as error:
        raise IntegrityError(
            "bad-weights",
            f"{printable(name, 200)} cannot be read",
            expected="a file of torch.save that holds tensors and plain values",
            found=printable(error, 200),
            where=piece.path,
            kept="everything; nothing of it was run",
            next="copy it again; where you trust it, save it as safetensors in the program that wrote it",
        ) from error
