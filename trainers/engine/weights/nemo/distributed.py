"""Weights in distributed checkpoints: one index of boxes in files of ranks (PyTorch's), or a zarr folder each.

    model_weights/.metadata, __0_0.distcp, ...     or below weights/, as NeMo 2 writes them
    model_weights/NAME/.zarray, 0.0, ...           the older form: plain chunks of little-endian numbers

All layers of a weight are one tensor there, or each layer's is its own.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata

from schemas.errors import printable
from schemas.nemo.archive import SMALL, Archive, Piece
from schemas.nemo.tar import bad_archive
from schemas.untrusted import strict_json
from trainers.engine.checkpoint import safe_unpickle
from trainers.engine.checkpoint.torch_file import TorchFile, reading
from trainers.engine.weights.folder import listed
from trainers.engine.weights.nemo.lazy_tensor import Box, LazyTensor, Region, Shape
from trainers.engine.weights.nemo.names import bare, is_weight

_FOLDERS = ("model_weights/", "weights/")
_INDEX, _ZARR = safe_unpickle.INDEX, ".zarray"
_STACKED = re.compile(r"\blayers\.(?!\d+\.)")
_EXPERTS = ".experts.experts."
_MOST_LAYERS, _MOST_INDEX = 1 << 16, 256 << 20
_ZARR_TYPES = {"<f4": torch.float32, "<f2": torch.float16, "bfloat16": torch.bfloat16}


def folder_of(archive: Archive) -> str | None:
    """The folder of the distributed checkpoint; None where there is none."""
    there = [name.partition("/")[0] + "/" for name in archive.pieces if "/" in name]
    return next((folder for folder in _FOLDERS if folder in there), None)


def tensors(archive: Archive, folder: str) -> dict[str, LazyTensor]:
    """Every weight of every layer by name; `IntegrityError` for an index that lies or holds more than an index."""
    if f"{folder}{_INDEX}" in archive.pieces:
        wholes = _indexed(archive, folder)
    else:
        wholes = _zarr(archive, folder)
    weights: dict[str, LazyTensor] = {}
    for name, (size, dtype, boxes) in wholes.items():
        for own, index in _pieces(name, size):
            if own in weights:
                raise bad_archive(archive.path, f"{listed([own])} twice")
            weights[own] = Region(size, dtype, boxes, index)
    if not weights:
        raise bad_archive(archive.path, f"no weights below {folder}")
    return weights


_Whole = tuple[Shape, torch.dtype, list[Box]]


def _pieces(name: str, size: Shape) -> Iterator[tuple[str, Shape]]:
    """The tensors of single layers, and of single experts, that one of a checkpoint holds, and where in it."""
    lead = 1 if _STACKED.search(name) else 0
    lead += 1 if _EXPERTS in name else 0
    for index in product(*map(range, size[:lead])):
        rest, own = list(index), name
        if _STACKED.search(own):
            own = _STACKED.sub(f"layers.{rest.pop(0)}.", own, count=1)
        if _EXPERTS in own:
            own = own.replace(_EXPERTS, f".experts.local_experts.{rest.pop(0)}.")
        yield own, index


def _indexed(archive: Archive, folder: str) -> dict[str, _Whole]:
    """The tensors that PyTorch's index describes."""
    name = folder + _INDEX
    piece = archive.pieces[name]
    with reading(piece, name):
        index = safe_unpickle.index_in(io.BytesIO(piece.bytes(_MOST_INDEX)))
        entries = {
            full: entry
            for full, entry in index.state_dict_metadata.items()
            if isinstance(full, str) and isinstance(entry, TensorStorageMetadata) and is_weight(bare(full))
        }
        index.state_dict_metadata = dict(entries)
        index.storage_data = {key: place for key, place in index.storage_data.items() if key.fqn in entries}
        files = {one.removeprefix(folder): two for one, two in archive.pieces.items() if one.startswith(folder)}
        safe_unpickle.check_places(index, {one: two.size for one, two in files.items()})
        arrays: dict[str, _Whole] = {}
        for full, entry in entries.items():
            size, dtype = tuple(entry.size), entry.properties.dtype
            _check_lead(size, full)
            boxes = []
            for chunk in entry.chunks:
                offset, inside = tuple(chunk.offsets), tuple(chunk.sizes)
                place = index.storage_data[MetadataIndex(full, chunk.offsets)]
                if getattr(place, "transform_descriptors", None):
                    raise ValueError(f"{printable(full, 120)} is packed")
                part = files[place.relative_path].part(place.offset, place.length)
                boxes.append(Box(offset, inside, partial(_of_file, part, place.relative_path, inside, dtype)))
            arrays[bare(full)] = size, dtype, boxes
    return arrays


def _check_lead(size: Shape, name: str) -> None:
    if not size:
        raise ValueError(f"{printable(name, 120)} is a single number")
    if len(size) > 2 and math.prod(size[:-2]) > _MOST_LAYERS:
        raise ValueError(f"{printable(name, 120)} of {printable(size, 80)}")


def _of_file(piece: Piece, name: str, size: Shape, dtype: torch.dtype, first: int, last: int) -> Tensor:
    """Rows of a box that `torch.save` wrote."""
    with reading(piece, name):
        whole = TorchFile(piece, name).tensors.get("")
        if whole is None or whole.shape != size or whole.dtype != dtype:
            raise ValueError("another tensor than the index says")
        return whole.read(first, last)


def _zarr(archive: Archive, folder: str) -> dict[str, _Whole]:
    """The tensors of a folder of zarr arrays."""
    arrays: dict[str, _Whole] = {}
    for name, piece in archive.pieces.items():
        full = name.removeprefix(folder).removesuffix(f"/{_ZARR}")
        if not (name.startswith(folder) and name.endswith(f"/{_ZARR}")) or not is_weight(bare(full)):
            continue
        with reading(piece, name):
            arrays[bare(full)] = _array(archive, name.removesuffix(_ZARR), strict_json(piece.bytes(SMALL)))
    return arrays


def _array(archive: Archive, folder: str, says: Any) -> _Whole:
    """One array: its chunks are files named by their place on a grid, the last ones filled up."""
    if says.get("compressor") is not None or says.get("filters") or says.get("order") != "C":
        raise ValueError("packed chunks")
    dtype, size, step = _ZARR_TYPES[says["dtype"]], tuple(says["shape"]), tuple(says["chunks"])
    whole = all(type(number) is int and number > 0 for number in (*size, *step))
    if not whole or len(size) != len(step) or not size:
        raise ValueError("no shape")
    grid = [-(-a // b) for a, b in zip(size, step, strict=True)]
    if math.prod(grid) > len(archive.pieces):
        raise ValueError(f"{math.prod(grid)} chunks")
    _check_lead(size, folder)
    boxes = []
    for place in product(*map(range, grid)):
        piece = archive.pieces[folder + ".".join(map(str, place))]
        if piece.size != math.prod(step) * dtype.itemsize:
            raise ValueError(f"a chunk of {piece.size} bytes")
        offset = tuple(a * b for a, b in zip(place, step, strict=True))
        inside = tuple(min(b, s - o) for b, s, o in zip(step, size, offset, strict=True))
        boxes.append(Box(offset, inside, partial(_of_chunk, piece, step, dtype)))
    return size, dtype, boxes


def _of_chunk(piece: Piece, step: Shape, dtype: torch.dtype, first: int, last: int) -> Tensor:
    """Rows of a chunk; the others of its dimensions as they are."""
    row = math.prod(step[1:]) * dtype.itemsize
    room = torch.empty((last - first) * row, dtype=torch.uint8)
    piece.read_into(room.numpy().data, first * row)
    return room.view(dtype).reshape(last - first, *step[1:])
