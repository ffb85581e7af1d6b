"""Megatron distributed checkpoints, written from pieces that are made when their turn comes.

They go through PyTorch's distributed checkpoint with a planner of our own, so the files are those that
`checkpoint.save` makes, while memory holds one piece: a layer's (and an expert's) share of one tensor.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)

from trainers.engine.checkpoint import safe_unpickle
from trainers.engine.megatron.quiet import quiet
from trainers.tensors import Index, Stack

Make = Callable[[Stack, Index], Tensor]


def write(folder: str, tensors: Iterable[tuple[Stack, torch.dtype]], make: Make) -> None:
    """Write the distributed checkpoint `folder`; `make` is asked for every piece once, in order; its errors come out
    as they are.
    """
    writer = dcp.FileSystemWriter(folder, single_file_per_rank=True, sync_files=False, thread_count=1)
    try:
        with quiet():
            dcp.save({}, storage_writer=writer, planner=_Pieces(tensors, make), no_dist=True)
    except CheckpointException as error:
        fault, _ = next(iter(error.failures.values()))
        raise fault from None
    safe_unpickle.save_common({}, folder)
    save_config(CheckpointingConfig("torch_dist", 1, "torch", 1), folder)
    safe_unpickle.normalise(folder)


class _Pieces(SavePlanner):
    def __init__(self, tensors: Iterable[tuple[Stack, torch.dtype]], make: Make) -> None:
        self._tensors, self._make = list(tensors), make
        self._stacks = {stack.name: stack for stack, _ in self._tensors}

    def set_up_planner(self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False) -> None:
        assert is_coordinator, "one process writes"

    def create_local_plan(self) -> SavePlan:
        return SavePlan([item for stack, dtype in self._tensors for item in _write_items(stack, dtype)])

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        return create_default_global_save_plan(all_plans)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
        stack, offset = self._stacks[write_item.index.fqn], write_item.index.offset
        assert offset is not None, f"{stack.name}: a piece without a place"
        piece = self._make(stack, tuple(offset)[: len(stack.lead)])
        assert tuple(piece.shape) == stack.shape, f"{stack.name}: {tuple(piece.shape)}, not {stack.shape}"
        return piece.reshape(*(1 for _ in stack.lead), *stack.shape)


def _write_items(stack: Stack, dtype: torch.dtype) -> list[WriteItem]:
    items = []
    for index in stack.indices():
        offset = torch.Size((*index, *(0 for _ in stack.shape)))
        chunk = ChunkStorageMetadata(offset, torch.Size((*(1 for _ in index), *stack.shape)))
        data = TensorWriteData(chunk, TensorProperties(dtype=dtype), torch.Size(stack.size))
        items.append(WriteItem(MetadataIndex(stack.name, offset), WriteItemType.SHARD, tensor_data=data))
    return items
