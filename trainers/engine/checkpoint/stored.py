"""The tensors of a Megatron distributed checkpoint, read one piece at a time.

They are read through PyTorch's distributed checkpoint with a planner of our own, so memory holds one piece: a layer's
(and an expert's) share of one tensor.
"""

from __future__ import annotations

import io
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from trainers.engine.checkpoint import safe_unpickle
from trainers.engine.megatron.quiet import quiet


class Stored:
    """The tensors of the distributed checkpoint `folder`, vetted; `IntegrityError` if it cannot be trusted."""

    def __init__(self, folder: str) -> None:
        self.index = safe_unpickle.vet(folder)
        self._reader = _Reader(folder, self.index)
        entries = self.index.state_dict_metadata
        self.tensors = {
            name: entry for name in sorted(entries) if isinstance(entry := entries[name], TensorStorageMetadata)
        }

    def dtype(self, name: str) -> torch.dtype:
        """Type of the tensor `name`."""
        dtype: torch.dtype = self.tensors[name].properties.dtype
        return dtype

    def size(self, name: str) -> tuple[int, ...]:
        """Shape of the whole tensor `name`."""
        return tuple(self.tensors[name].size)

    def read(self, name: str, index: tuple[int, ...] = ()) -> Tensor:
        """The piece of the tensor `name` at `index` of its first dimensions; the whole without one."""
        shape = self.size(name)[len(index) :]
        region = ChunkStorageMetadata(
            torch.Size((*index, *(0 for _ in shape))), torch.Size((*(1 for _ in index), *shape))
        )
        room = torch.empty(region.sizes, dtype=self.dtype(name))
        with safe_unpickle.reading(str(self._reader.path)), quiet():
            planner = _Region(name, self.tensors[name], region, room)
            dcp.load({name: room}, storage_reader=self._reader, planner=planner, no_dist=True)
        return room.reshape(shape)


class _Reader(dcp.FileSystemReader):
    """Reads by the index that was vetted, and never unpickles another."""

    def __init__(self, folder: str, index: Metadata) -> None:
        super().__init__(folder)
        self._index = index

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self._index


class _Region(LoadPlanner):
    """Fills `room` with one region of one tensor."""

    def __init__(self, name: str, entry: TensorStorageMetadata, region: ChunkStorageMetadata, room: Tensor) -> None:
        self._items, self._room = create_read_items_for_chunk_list(name, entry, [region]), room

    def set_up_planner(self, state_dict: Any, metadata: Any = None, is_coordinator: bool = False) -> None:
        assert is_coordinator, "one process reads"

    def create_local_plan(self) -> LoadPlan:
        return LoadPlan(self._items)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        raise AssertionError(f"{read_item}: no tensor")

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        place = zip(read_item.dest_offsets, read_item.lengths, strict=True)
        return self._room[tuple(slice(begin, begin + length) for begin, length in place)]

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        return
