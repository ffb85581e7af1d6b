"""Process groups: how the world is cut into tensor, pipeline, data and expert parallel groups.

`start` reads the world from torchrun's variables (or makes a world of one, without a port), checks that the sizes
divide, starts `torch.distributed` (NCCL with CUDA, gloo without) and Megatron's groups, and returns a
`Layout`. Ranks run tensor first, then data, then pipeline: rank = t + tensor * (d + data * p). The experts of a mixture
are dealt over `expert` neighbours among the tensor * data ranks of a pipeline stage, each whole.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist

from schemas.errors import ConfigError
from trainers.engine.megatron import meeting
from trainers.parallel import Parallel

T = TypeVar("T")

SINGLE = Parallel()
_WORLDS = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes of the parallel groups and this process's place in them."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1
    sequence: bool = False
    rank: int = 0

    @property
    def world(self) -> int:
        """Number of processes of the run: tensor x pipeline x data."""
        return self.tensor * self.pipeline * self.data

    @property
    def tensor_rank(self) -> int:
        """Which slice of each weight this process holds."""
        return self.rank % self.tensor

    @property
    def expert_tensor(self) -> int:
        """Into how many slices an expert's weights are cut: where experts are dealt out, they stay whole."""
        return self.tensor if self.expert == 1 else 1

    @property
    def expert_rank(self) -> int:
        """Which share of the experts this process holds."""
        return self.rank // self.expert_tensor % self.expert

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
        """The device of this process: the GPU of its rank on this machine, or the CPU where there is none."""
        return torch.device("cuda", _local_rank()) if torch.cuda.is_available() else torch.device("cpu")


def divide(parallel: Parallel, world: int, rank: int = 0) -> Layout:
    """The layout of `world` processes under `parallel`, seen from `rank`; `ConfigError` when the sizes do not
    divide.
    """
    sizes = {"tensor": parallel.tensor, "pipeline": parallel.pipeline, "expert": parallel.expert}
    if faults := [f"{name}={size}" for name, size in sizes.items() if size < 1]:
        raise ConfigError("parallel-size", "parallel sizes start at 1", found=", ".join(faults))
    fewest = parallel.min_world_size
    if world % fewest:
        raise ConfigError(
            "parallel-size",
            f"{world} processes do not fill {parallel}",
            expected=f"a multiple of {fewest} processes",
            found=str(world),
            next=f"python -m trainers.launch CONFIG.json --ranks {fewest}",
        )
    return Layout(
        **sizes,
        data=world // (parallel.tensor * parallel.pipeline),
        sequence=parallel.sequence and parallel.tensor > 1,
        rank=rank,
    )


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
        parallel_state.initialize_model_parallel(
            layout.tensor,
            layout.pipeline,
            expert_model_parallel_size=layout.expert,
            expert_tensor_parallel_size=layout.expert_tensor,
        )
    running = (
        parallel_state.get_tensor_model_parallel_world_size(),
        parallel_state.get_pipeline_model_parallel_world_size(),
        parallel_state.get_expert_model_parallel_world_size(),
    )
    if running != (layout.tensor, layout.pipeline, layout.expert):
        raise ConfigError(
            "parallel-size",
            "this process already runs with other parallel sizes",
            expected=f"tensor {layout.tensor}, pipeline {layout.pipeline}, expert {layout.expert}",
            found="tensor {}, pipeline {}, expert {}".format(*running),
        )
    seed_all(seed)
    return layout


def _start_world(layout: Layout, timeout: float) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(layout.device)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    limit = timedelta(seconds=timeout)
    if layout.world == 1:
        dist.init_process_group(backend, store=meeting.alone(), rank=0, world_size=1, timeout=limit)
        return
    with _default_signals():
        store = dist.PrefixStore(f"world {next(_WORLDS)}", meeting.meet(layout.rank, layout.world, limit))
        dist.init_process_group(backend, store=store, rank=layout.rank, world_size=layout.world, timeout=limit)


@contextmanager
def _default_signals() -> Iterator[None]:
    """Let a signal end the process while it waits inside torch, where no handler of Python's would be reached."""
    watched = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {each: signal.signal(each, signal.SIG_DFL) for each in watched}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def seed_all(seed: int) -> None:
    """Seed Python, NumPy, torch and Megatron's tensor-parallel generators."""
    from megatron.core import tensor_parallel

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    tensor_parallel.model_parallel_cuda_manual_seed(seed % 2**63)


def is_rank_zero() -> bool:
    """Whether this process speaks for the world: it prints, it publishes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def on_rank_zero(action: Callable[[], T], group: Any = None) -> T:
    """Run `action` on the first rank; every rank gets its result, or its error. Outside the main thread with a `group`
    of that thread's own.
    """
    result: list[Any] = [None, None]
    if is_rank_zero():
        try:
            result[0] = action()
        except Exception as error:
            result[1] = error
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(result, src=0, group=group)
    if result[1] is not None:
        raise result[1]
    return cast(T, result[0])


def stop() -> None:
    """Leave the groups; the process may `start` again with other sizes."""
    from megatron.core import parallel_state

    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))
