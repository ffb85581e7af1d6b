"""The optimizer: Megatron's AdamW with clipping over the whole network, torch's fused kernel."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer

from trainers.config import Optim
from trainers.schedule import learning_rate

_OWN_WARNINGS = (
    ".*(reduce_scatter_tensor|all_gather_into_tensor|_reduce_scatter_base|_all_gather_base)",
    "The .grad attribute of a Tensor that is not a leaf",
)
"""What torch says, at every step, of how Megatron's distributed optimizer calls it."""


def build(optim: Optim, model: Any, *, bf16: bool) -> MegatronOptimizer:
    """Megatron's optimizer over the DDP-wrapped `model`; with `bf16`, master weights and moments are kept in fp32.

    Megatron groups parameters by `wd_mult` (0 for biases and all else of one dimension) but leaves it to its own
    scheduler to multiply that in; ours knows rates alone, so it is done here. A resumed optimizer keeps these groups.
    Where the wrapping deals gradients over the replicas, each replica keeps and steps its share of the state (ZeRO 1).
    """
    dealt = model.ddp_config.use_distributed_optimizer
    if dealt:
        for message in _OWN_WARNINGS:
            warnings.filterwarnings("ignore", message)
    config = OptimizerConfig(
        optimizer="adam",
        lr=optim.lr,
        min_lr=optim.min_lr,
        weight_decay=optim.weight_decay,
        adam_beta1=optim.betas[0],
        adam_beta2=optim.betas[1],
        adam_eps=optim.eps,
        clip_grad=optim.clip_grad,
        bf16=bf16,
        params_dtype=torch.bfloat16 if bf16 else torch.float32,
        use_distributed_optimizer=dealt,
    )
    optimizer = get_megatron_optimizer(config, [model])
    for group in optimizer.param_groups:
        group["weight_decay"] = optim.weight_decay * group["wd_mult"]
        if optim.fused:
            group["fused"], group["foreach"] = True, False
    return optimizer


def set_learning_rate(optimizer: MegatronOptimizer, optim: Optim, step: int, last: int | None) -> float:
    """Have every parameter learn with the rate of step `step` (from 1); the rate. last: the step at which the schedule
    has come down (None: it never does).
    """
    rate = learning_rate(optim, step, step if last is None else last)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate
