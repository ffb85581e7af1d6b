"""How a network is cut over processes, and what contradicts it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from schemas.settings import at_least, bound_faults
from trainers.architecture import ModelConfig, shape_faults


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """How the network is cut: tensor and pipeline sizes, `sequence` parallelism inside a tensor group.

    What is left of the world is data parallel: WORLD_SIZE / (tensor * pipeline) replicas. `expert` deals the experts of
    a mixture, each whole, over that many of a pipeline stage's tensor * data processes; with 1 they are cut by
    `tensor` like all else. `distributed_optimizer` deals the optimizer's state over the replicas (ZeRO 1).
    """

    tensor: int = field(default=1, metadata=at_least(1))
    pipeline: int = field(default=1, metadata=at_least(1))
    sequence: bool = False
    expert: int = field(default=1, metadata=at_least(1))
    distributed_optimizer: bool = False

    @property
    def min_world_size(self) -> int:
        """The smallest world that fills the cut; every world that does is a multiple of it."""
        return self.pipeline * math.lcm(self.tensor, self.expert)

    def __str__(self) -> str:
        return f"tensor {self.tensor} x pipeline {self.pipeline}" + f", expert {self.expert}" * (self.expert > 1)


def parallel_errors(model: ModelConfig, parallel: Parallel, *, training: bool = True) -> list[str]:
    """Why `model` or `parallel` contradicts itself, or the one cannot be cut by the other; empty when it can."""
    if contradictions := shape_faults(model) + size_errors(parallel):
        return contradictions
    tp, pp = parallel.tensor, parallel.pipeline
    sizes = {
        "num_attention_heads": model.num_attention_heads,
        "ffn_hidden_size": model.ffn_hidden_size,
    }
    faults = [
        f"model.{name} {size} does not divide by parallel.tensor {tp}" for name, size in sizes.items() if size % tp
    ]
    if max(model.num_query_groups, tp) % min(model.num_query_groups, tp):
        faults.append(f"model.num_query_groups {model.num_query_groups} and parallel.tensor {tp} do not divide")
    if model.num_layers % pp:
        faults.append(f"model.num_layers {model.num_layers} does not divide by parallel.pipeline {pp}")
    return faults + _expert_cut_faults(model, parallel, training)


def _expert_cut_faults(model: ModelConfig, parallel: Parallel, training: bool) -> list[str]:
    ep, experts, faults = parallel.expert, model.experts, []
    if ep > 1 and (experts is None or experts.number % ep):
        number = 0 if experts is None else experts.number
        faults.append(f"model.experts.number {number} does not divide by parallel.expert {ep}")
    if experts is not None and parallel.tensor > 1 and not parallel.sequence and (training or ep > 1):
        faults.append(f"a mixture of experts at parallel.tensor {parallel.tensor} needs parallel.sequence")
    return faults


def size_errors(parallel: Parallel) -> list[str]:
    """Why `parallel` contradicts itself, whatever the network; empty when it does not."""
    faults = bound_faults(parallel, "parallel.")
    if parallel.sequence and parallel.tensor == 1:
        faults.append("parallel.sequence has no effect with tensor 1")
    return faults
