"""What a checkpoint may make this process run: nothing.

PyTorch's distributed checkpoints keep their index (`.metadata`) as a pickle and loose objects as `torch.save`
bytes, and read both without restriction. Before Megatron is let near a folder, the index is read here by an
unpickler that knows the classes of an index and no others, and every loose object by torch's own weights-only
reader.
"""

from __future__ import annotations

import io
import math
import os
import pickle  # only ever through the restricted reader below
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import torch
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    BytesStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan

from schemas.errors import IntegrityError, printable

INDEX = ".metadata"
_MAX_DIMENSIONS = 64

_KNOWN = frozenset(
    ("torch.distributed.checkpoint." + module, name)
    for module, names in (
        ("metadata", "Metadata MetadataIndex TensorStorageMetadata BytesStorageMetadata"),
        ("metadata", "ChunkStorageMetadata TensorProperties _MEM_FORMAT_ENCODING StorageMeta"),
        ("filesystem", "_StorageInfo"),
        ("planner", "SavePlan WriteItem WriteItemType TensorWriteData BytesIOWriteData"),
    )
    for name in names.split()
) | {("torch", "Size"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath")}
_DTYPES = frozenset(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))
_OLDER = {
    ("megatron.core.dist_checkpointing.strategies.torch", "MCoreMetadata"): Metadata,
    ("megatron.core.dist_checkpointing.strategies.torch", "MCoreSavePlan"): SavePlan,
    ("torch.distributed._shard.sharded_tensor.metadata", "TensorProperties"): TensorProperties,
    ("torch.distributed._shard.sharded_tensor.metadata", "MEM_FORMAT_ENCODING"): _MEM_FORMAT_ENCODING,
}
"""Names under which other versions of PyTorch and Megatron wrote the same."""


class _Reader(pickle._Unpickler):
    """Python's own rather than the faster one, whose memory grows with a number that the pickle names."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN or (module == "torch" and name in _DTYPES):
            return super().find_class(module, name)
        if (module, name) in _OLDER:
            return _OLDER[module, name]
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a checkpoint's index")


def read_index(folder: str) -> Metadata:
    """The index of the distributed checkpoint `folder`; `IntegrityError` if it is torn or holds anything
    else.
    """
    path = os.path.join(folder, INDEX)
    with reading(path), open(path, "rb") as file:
        return index_in(file)


def index_in(file: IO[bytes]) -> Metadata:
    """The index that the file `.metadata` is; errors of all kinds if it holds anything else."""
    index = _Reader(file).load()
    if not isinstance(index, Metadata):
        raise TypeError("not an index")
    if not (isinstance(index.storage_data, dict) and isinstance(index.state_dict_metadata, dict)):
        raise TypeError("an index without tables")
    return index


def normalise(folder: str) -> None:
    """Drop from a fresh checkpoint what differs from run to run or place to place (paths, random ids), so that equal
    weights are equal files.
    """
    index = read_index(folder)
    index.storage_meta = None
    if hasattr(index, "all_local_plans"):
        index.all_local_plans = None
    with open(os.path.join(folder, INDEX), "wb") as file:
        pickle.dump(index, file)
    common = os.path.join(folder, COMMON_STATE_FNAME)
    with reading(common):
        state = torch.load(common, map_location="cpu", weights_only=True)
    save_common(state, folder)


def save_common(state: Any, folder: str) -> None:
    """Write what is not a tensor of a distributed checkpoint. torch names the archive after a path, as far as that is
    ASCII; here it is always the same.
    """
    data = io.BytesIO()
    torch.save(state, data)
    with open(os.path.join(folder, COMMON_STATE_FNAME), "wb") as file:
        file.write(data.getbuffer())


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns whatever goes wrong within into the `IntegrityError` that `path` of a checkpoint cannot be used."""
    try:
        yield
    except (IntegrityError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # Megatron's and PyTorch's CheckpointException are no Exception
        raise unusable(path, error) from error


def vet(folder: str) -> Metadata:
    """Check the index and every loose object of the distributed checkpoint `folder`; the index, if all is harmless:
    its tensors are whole, lie in files of the folder and are no larger than these.
    """
    index, path = read_index(folder), os.path.join(folder, INDEX)
    with reading(path):
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()}
        check_places(index, sizes)
    for key, info in index.storage_data.items():
        if isinstance(index.state_dict_metadata.get(key.fqn), BytesStorageMetadata):
            path = os.path.join(folder, info.relative_path)
            with reading(path), open(path, "rb") as file:
                file.seek(info.offset)
                torch.load(io.BytesIO(file.read(info.length)), weights_only=True)
    return index


def check_places(index: Metadata, sizes: Mapping[str, int]) -> None:
    """Raise `ValueError` or another error unless every tensor of the index is whole and lies in files of `sizes`."""
    for key, info in index.storage_data.items():
        if not (isinstance(key, MetadataIndex) and isinstance(key.fqn, str)):
            raise TypeError(f"a place for {printable(key)}")
        if os.path.basename(info.relative_path) != info.relative_path:
            raise ValueError(f"names a file elsewhere: {printable(info.relative_path)}")
        if not (_whole((info.offset, info.length)) and info.offset + info.length <= sizes[info.relative_path]):
            raise ValueError(f"{printable(key.fqn)} does not lie in {printable(info.relative_path)}")
    for name, entry in index.state_dict_metadata.items():
        if isinstance(entry, TensorStorageMetadata):
            _check_tensor(name, entry, index.storage_data)
        elif not isinstance(entry, BytesStorageMetadata):
            raise ValueError(f"{printable(name)} is neither a tensor nor an object")


def _check_tensor(name: str, entry: TensorStorageMetadata, places: Mapping[MetadataIndex, Any]) -> None:
    """Raise `ValueError` unless the chunks lie within the tensor, fill it, and have their bytes in a file."""
    if not _sizes(entry.size):
        raise ValueError(f"{printable(name)} has other sizes than a tensor")
    covered = 0
    for chunk in entry.chunks:
        if not (_sizes(chunk.offsets) and _sizes(chunk.sizes)):
            raise ValueError(f"a piece of {printable(name)} has other sizes than a tensor")
        ends = [begin + size for begin, size in zip(chunk.offsets, chunk.sizes, strict=True)]
        inside = all(end <= size for end, size in zip(ends, entry.size, strict=True))
        numbers = math.prod(chunk.sizes)
        length = places[MetadataIndex(name, chunk.offsets)].length
        if not (inside and numbers * entry.properties.dtype.itemsize <= length):
            raise ValueError(f"a piece of {printable(name)} is not where it should be")
        covered += numbers
    whole = min(entry.size, default=1) >= 1 and covered == math.prod(entry.size)
    if not whole or _overlap([tuple(chunk.offsets) for chunk in entry.chunks], [tuple(c.sizes) for c in entry.chunks]):
        raise ValueError(f"{printable(name)} is not whole")


def _overlap(offsets: list[tuple[int, ...]], sizes: list[tuple[int, ...]]) -> bool:
    """Whether two boxes share a place; of boxes of one size on its grid that is known without a look at pairs."""
    if len(set(offsets)) < len(offsets):
        return True
    if len(set(sizes)) == 1 and all(a % s == 0 for place in offsets for a, s in zip(place, sizes[0], strict=True)):
        return False
    begin = np.array(offsets)
    end = begin + np.array(sizes)
    pairs = ((begin[i] < end[i + 1 :]) & (end[i] > begin[i + 1 :]) for i in range(len(offsets)))
    return any(bool(pair.all(axis=1).any()) for pair in pairs)


def _whole(numbers: Iterable[Any]) -> bool:
    return all(type(number) is int and number >= 0 for number in numbers)


def _sizes(numbers: Sequence[Any]) -> bool:
    """Whether they can be a tensor's, so that their product is soon worked out."""
    return len(numbers) <= _MAX_DIMENSIONS and _whole(numbers) and max(numbers, default=0) < 1 << 63


def unusable(path: str, error: BaseException) -> IntegrityError:
    """The error that says which file of a checkpoint cannot be used."""
    return IntegrityError(
        "checkpoint-unusable",
        f"{printable(os.path.basename(path))} of a checkpoint cannot be read",
        expected="a checkpoint of tensors and plain values",
        found=printable(error),
        where=path,
        kept="everything; nothing was changed",
        next="copy the checkpoint again, or train again",
    )
