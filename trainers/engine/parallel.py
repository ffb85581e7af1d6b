"""Process groups: how the world is cut into tensor, pipeline and data parallel groups.

`start` reads the world from torchrun's environment (or makes a world of one, without a port), checks that the
sizes divide, starts `torch.distributed` (NCCL with CUDA, gloo without) and Megatron's groups, and returns a
`Layout`. Ranks run tensor first, then data, then pipeline: rank = t + tensor * (d + data * p).
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from schemas.errors import ConfigError
from trainers.config import Parallel

SINGLE = Parallel()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes of the parallel groups and this process's place in them."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    sequence: bool = False
    rank: int = 0

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.tensor * self.pipeline * self.data

    @property
    def tensor_rank(self) -> int:
        """Which slice of each weight this process holds."""
        return self.rank % self.tensor

    @property
    def data_rank(self) -> int:
        """Which share of each batch this process reads."""
        return self.rank // self.tensor % self.data

    @property
    def pipeline_rank(self) -> int:
        """Which run of layers this process holds."""
        return self.rank // (self.tensor * self.data)

    @property
    def first(self) -> bool:
        """Whether this is the first pipeline stage: it holds the embedding."""
        return self.pipeline_rank == 0

    @property
    def last(self) -> bool:
        """Whether this is the last pipeline stage: it holds the head and sees the loss."""
        return self.pipeline_rank == self.pipeline - 1

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return torch.device("cuda", _local_rank()) if torch.cuda.is_available() else torch.device("cpu")


def divide(parallel: Parallel, world: int, rank: int = 0) -> Layout:
    """The layout of `world` processes under `parallel`, seen from `rank`; `ConfigError` when the sizes do not
    divide.
    """
    faults = [
        f"{name}={size}" for name, size in (("tensor", parallel.tensor), ("pipeline", parallel.pipeline)) if size < 1
    ]
    if faults:
        raise ConfigError("parallel-size", "parallel sizes start at 1", found=", ".join(faults))
    replica = parallel.tensor * parallel.pipeline
    if world % replica:
        raise ConfigError(
            "parallel-size",
            f"{world} processes do not fill tensor {parallel.tensor} x pipeline {parallel.pipeline}",
            expected=f"a multiple of {replica} processes",
            found=str(world),
            next=f"torchrun --nproc-per-node {replica} ...",
        )
    sizes = {"tensor": parallel.tensor, "pipeline": parallel.pipeline, "data": world // replica}
    return Layout(**sizes, sequence=parallel.sequence and parallel.tensor > 1, rank=rank)


def start(parallel: Parallel = SINGLE, *, seed: int = 0, timeout: float = 1800.0) -> Layout:
    """Start this process's groups and seed its generators; a second call with the same sizes only seeds.

    timeout: seconds after which a collective operation that hangs is an error.
    """
    from megatron.core import parallel_state

    world = int(os.environ.get("WORLD_SIZE", "1"))
    layout = divide(parallel, world, int(os.environ.get("RANK", "0")))
    if not dist.is_initialized():
        _start_world(layout, timeout)
    if not parallel_state.model_parallel_is_initialized():
        parallel_state.initialize_model_parallel(layout.tensor, layout.pipeline)
    running = (
        parallel_state.get_tensor_model_parallel_world_size(),
        parallel_state.get_pipeline_model_parallel_world_size(),
    )
    if running != (layout.tensor, layout.pipeline):
        raise ConfigError(
            "parallel-size",
            "this process already runs with other parallel sizes",
            expected=f"tensor {layout.tensor}, pipeline {layout.pipeline}",
            found=f"tensor {running[0]}, pipeline {running[1]}",
        )
    seed_all(seed)
    return layout


def _start_world(layout: Layout, timeout: float) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(layout.device)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    limit = timedelta(seconds=timeout)
    if layout.world == 1:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=limit)
        return
    if os.environ.get("MASTER_ADDR") in ("localhost", "127.0.0.1") and os.path.exists("/sys/class/net/lo"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(backend, timeout=limit)


def seed_all(seed: int) -> None:
    """Seed Python, NumPy, torch and Megatron's tensor-parallel generators."""
    from megatron.core import tensor_parallel

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    tensor_parallel.model_parallel_cuda_manual_seed(seed % 2**63)


def stop() -> None:
    """Leave the groups; the process may `start` again with other sizes."""
    from megatron.core import parallel_state

    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))
