"""What a checkpoint may make this process run: nothing.

PyTorch's distributed checkpoints keep their index (`.metadata`) as a pickle and loose objects as `torch.save`
bytes, and read both without restriction. Before Megatron is let near a folder, the index is read here by an
unpickler that knows the classes of an index and no others, and every loose object by torch's own weights-only
reader.
"""

from __future__ import annotations

import io
import os
import pickle  # only ever through the restricted reader below
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from schemas.errors import IntegrityError, printable

INDEX = ".metadata"

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


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN or (module == "torch" and name in _DTYPES):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a checkpoint's index")


def read_index(folder: str) -> Metadata:
    """The index of the distributed checkpoint `folder`; `IntegrityError` if it is torn or holds anything
    else.
    """
    path = os.path.join(folder, INDEX)
    try:
        with open(path, "rb") as file:
            index = _Reader(file).load()
    except Exception as error:
        raise unusable(path, error) from error
    if not isinstance(index, Metadata) or not isinstance(index.storage_data, dict):
        raise unusable(path, ValueError("not an index"))
    return index


def normalise(folder: str) -> None:
    """Drop from a fresh index what differs from run to run (paths, random ids), so that equal weights are
    equal files.
    """
    index = read_index(folder)
    index.storage_meta = None
    if hasattr(index, "all_local_plans"):
        index.all_local_plans = None
    with open(os.path.join(folder, INDEX), "wb") as file:
        pickle.dump(index, file)


def vet(folder: str) -> Metadata:
    """Check the index and every loose object of the distributed checkpoint `folder`; the index, if all is
    harmless.
    """
    index = read_index(folder)
    for key, info in index.storage_data.items():
        path = os.path.join(folder, info.relative_path)
        if os.path.basename(info.relative_path) != info.relative_path:
            raise unusable(
                os.path.join(folder, INDEX),
                ValueError(f"names a file elsewhere: {printable(info.relative_path)}"),
            )
        if not isinstance(index.state_dict_metadata.get(key.fqn), BytesStorageMetadata):
            continue
        try:
            with open(path, "rb") as file:
                file.seek(info.offset)
                torch.load(io.BytesIO(file.read(info.length)), weights_only=True)
        except Exception as error:
            raise unusable(path, error) from error
    return index


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
