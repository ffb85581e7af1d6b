"""Run by torchrun with two processes: saves what the resharding test reads, at tensor 2, pipeline 2 and data 2."""

from __future__ import annotations

import sys

import torch

from tests.trainers.networks import SMALL
from trainers.config import Optim
from trainers.engine.checkpoint import checkpoint
from trainers.engine.data.packing import pack
from trainers.engine.megatron import parallel
from trainers.engine.megatron.model import build
from trainers.engine.training import optim
from trainers.parallel import Parallel

LENGTHS = [5, 12, 3]


def trained(net: torch.nn.Module, steps: int, dealt: bool = False) -> tuple[torch.nn.Module, object, list[float]]:
    """`net` under DDP with its optimizer (`dealt`: the distributed one), after `steps` steps on one batch."""
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

    config = DistributedDataParallelConfig(use_distributed_optimizer=dealt)
    wrapped = DistributedDataParallel(net.config, config, net)
    optimizer = optim.build(Optim(lr=1e-2), wrapped, bf16=False)
    return wrapped, optimizer, steps_of(wrapped, optimizer, steps)


def steps_of(wrapped: torch.nn.Module, optimizer: object, steps: int) -> list[float]:
    """Losses of so many steps."""
    ids = torch.randint(0, SMALL.vocab_size, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(5))
    plan, losses = pack(LENGTHS), []
    for _ in range(steps):
        wrapped.zero_grad_buffer()
        optimizer.zero_grad()
        loss = wrapped(ids, plan.positions, None, labels=ids, packed_seq_params=plan).mean()
        loss.backward()
        wrapped.finish_grad_sync()
        optimizer.step()
        losses.append(loss.item())
    return losses


def moved(before: str, after: str, layout: parallel.Layout, *, dealt: bool) -> None:
    """Load a checkpoint with its optimizer at `layout`, save it again."""
    wrapped, optimizer, _ = trained(checkpoint.load_model(before, layout), 0, dealt)
    checkpoint.load_optimizer(before, model=wrapped, optimizer=optimizer)
    checkpoint.save(after, model=wrapped, optimizer=optimizer)


def main(folder: str) -> None:
    """Save a trained network at tensor 2, the same at pipeline 2 and at data 2, and a fresh one at pipeline 2."""
    from megatron.core import parallel_state

    layout = parallel.start(Parallel(tensor=2))
    wrapped, optimizer, _ = trained(build(SMALL, layout), 0)
    checkpoint.save(f"{folder}/tensor-fresh", model=wrapped)
    steps_of(wrapped, optimizer, 2)
    checkpoint.save(f"{folder}/tensor", model=wrapped, optimizer=optimizer, train_state={"step": 2})
    parallel_state.destroy_model_parallel()
    layout = parallel.start(Parallel(pipeline=2))
    checkpoint.save(f"{folder}/pipeline-fresh", model=build(SMALL, layout))
    moved(f"{folder}/tensor", f"{folder}/tensor-as-pipeline", layout, dealt=True)
    parallel_state.destroy_model_parallel()
    layout = parallel.start(Parallel())
    moved(f"{folder}/tensor-as-pipeline", f"{folder}/pipeline-as-data", layout, dealt=True)
    parallel.stop()


if __name__ == "__main__":
    main(sys.argv[1])
