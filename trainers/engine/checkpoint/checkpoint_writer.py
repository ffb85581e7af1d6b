"""A distributed checkpoint in two halves: what training waits for, and what it does not.

`plan` agrees over all ranks on who writes what and copies this rank's tensors, if training is to go on meanwhile.
`write` puts them on disk, every rank its own file, from any thread. Megatron's own writer forks a process per file,
which a process with threads (of the feed, of CUDA, of gloo) must not do; here the calling thread writes.
"""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.storage import WriteResult

from schemas.errors import printable
from trainers.engine.checkpoint import safe_unpickle
from trainers.engine.checkpoint.disk_faults import torch_writing, unwritten, writer_fault
from trainers.engine.megatron import parallel
from trainers.engine.megatron.quiet import quiet

_BACKEND = ("torch_dist", 1)


@dataclass(frozen=True)
class Part:
    """One distributed checkpoint that is planned but not written; `index` is known to the first rank alone."""

    folder: str
    writer: FileSystemWriterAsync
    index: Metadata | None

    def write(self) -> list[WriteResult]:
        """Write this rank's file; what stands where in it."""
        written: list[WriteResult] = []
        for bucket in self.writer.write_buckets or []:
            results: queue.Queue[Any] = queue.Queue()
            turns: queue.Queue[int] = queue.Queue()
            turns.put(0)
            FileSystemWriterAsync.write_preloaded_data(
                [self.writer.transforms], 0, bucket, results, turns, use_fsync=True
            )
            _, result = results.get()
            if isinstance(result, Exception):
                raise result
            written += result
        return written

    def finish(self, results: Sequence[list[WriteResult]]) -> None:
        """Write the index over the files of all ranks, with nothing of this run or place in it; for the first rank."""
        assert self.index is not None, f"{self.folder} was planned on another rank"
        self.writer.finish(self.index, list(results))
        save_config(CheckpointingConfig(*_BACKEND), self.folder)
        safe_unpickle.normalise(self.folder)


def plan(tensors: Mapping[str, Any], folder: str, *, copy: bool) -> Part:
    """Agree with all ranks on what goes where below the empty `folder`; with `copy`, later changes are not written."""
    if filesystem_async._results_queue is None:
        # Never read here; Megatron's own is a server process, which outlives a killed run with its pipes open.
        filesystem_async._results_queue = queue.Queue()
    strategy = _Planned()
    with torch_writing(folder), quiet():
        dist_checkpointing.save({"model": dict(tensors)}, folder, strategy, async_sharded_save=True)
    assert strategy.part is not None, f"{folder}: nothing was planned"
    writer, index = strategy.part
    writer.write_buckets = [_on_cpu(bucket, copy) for bucket in writer.write_buckets or []]
    return Part(folder, writer, index)


def write(parts: Sequence[Part], group: Any = None) -> None:
    """Write and finish `parts`; all ranks together. `StorageError` on all of them when one cannot write."""
    mine: list[list[WriteResult]] = []
    fault: str | None = None
    try:
        mine = [part.write() for part in parts]
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into RuntimeError
        known = writer_fault(error, parts[0].folder)
        fault = known.found if known is not None else printable(error.__cause__ or error.__context__ or error)
    world = dist.get_world_size() if dist.is_initialized() else 1
    gathered: list[Any] = [(mine, fault)] * world
    if world > 1:
        dist.gather_object((mine, fault), gathered if parallel.is_rank_zero() else None, dst=0, group=group)

    def finish() -> None:
        faults = {rank: fault for rank, (_, fault) in enumerate(gathered) if fault is not None}
        if faults:
            raise unwritten(parts[0].folder, "; ".join(f"rank {rank}: {text}" for rank, text in faults.items()))
        for number, part in enumerate(parts):
            try:
                part.finish([results[number] for results, _ in gathered])
            except OSError as error:
                raise unwritten(part.folder, printable(error)) from error

    parallel.on_rank_zero(finish, group)


class _Planned(TorchDistSaveShardedStrategy):
    """Megatron's strategy as far as its plan, which it keeps in `part`: the writer, and the index on the first rank."""

    def __init__(self) -> None:
        super().__init__(*_BACKEND, thread_count=1)
        self.part: tuple[FileSystemWriterAsync, Metadata | None] | None = None

    def _get_save_and_finalize_callbacks(self, writer: FileSystemWriterAsync, planned: Any) -> AsyncRequest:
        self.part = (writer, planned[1])
        return AsyncRequest(None, (), [])


def _on_cpu(bucket: Any, copy: bool) -> Any:
    """A planned file with its tensors on the CPU, and nobody else's if `copy`."""
    path, name, (loose, tensors) = bucket

    def to_cpu(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone() if copy and tensor.device.type == "cpu" else tensor.to("cpu")

    return path, name, (loose, [(item, to_cpu(tensor)) for item, tensor in tensors])
