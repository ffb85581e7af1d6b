"""A mixture of experts: Megatron's router with a load-balancing loss that fits gradients divided at the end.

    L = E sum_e f_e p_e     per layer and micro-batch; f_e: share of choices that fell on e, p_e: mean probability of e

(Switch Transformer, Fedus et al. 2021, arXiv:2101.03961, over the whole micro-batch of a replica.) What training sees
is the loss of the algorithm plus `balance` times the sum over layers of L averaged over micro-batches by their tokens.
f is a property of the micro-batch, so this one loss knows how a batch was cut into micro-batches and replicas; tensor,
sequence, pipeline and expert parallelism change nothing, nor does padding. With `balance` 0 no cut does.

Legend: t tokens of this rank, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.transformer.moe import moe_utils
from megatron.core.transformer.moe.router import TopKRouter
from torch import Tensor

from trainers.algorithm import Algorithm, Per
from trainers.engine.data.batch import MicroBatch

vars(moe_utils).setdefault("te_general_gemm", None)  # 0.16.1 leaves the name undefined without Transformer Engine


class Router(TopKRouter):
    """Megatron's top-k router, with `balance_weight` (see `weigh`) on its load-balancing loss."""

    def __init__(self, config: Any, pg_collection: Any = None) -> None:
        super().__init__(config=config, pg_collection=pg_collection)
        self.balance_weight = 0.0

    def _apply_aux_loss(
        self, probs: Tensor, scores_for_aux_loss: Tensor, routing_map: Tensor, with_padding_mask: bool = False
    ) -> Tensor:
        """`probs` with the loss hung onto their gradient; rows of padding are zero in both others."""
        choices_E = routing_map.sum(dim=0).float()
        if self.tp_cp_group.size() > 1:
            dist.all_reduce(choices_E, group=self.tp_cp_group)
        total = choices_E.sum().clamp(min=1)
        summed_E = scores_for_aux_loss.float().sum(dim=0)  # p_e times tokens
        loss = self.num_experts * (choices_E / total * summed_E).sum()
        weight = self.config.moe_aux_loss_coeff * self.balance_weight
        attached: Tensor = _Attached.apply(probs, loss * weight)
        return attached


class _Attached(torch.autograd.Function):
    """The first argument, with the second one's gradient started whenever its own arrives."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, loss: Tensor) -> Tensor:
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return gradients[0], gradients[0].new_ones(())


def weigh(model: torch.nn.Module, batches: Sequence[MicroBatch], algorithm: Algorithm) -> None:
    """Set the weight of the load-balancing loss for a step of these micro-batches (this replica's).

    Gradients of a step are added up and divided by the global weight of the algorithm's loss at the end. A loss that is
    averaged over all tokens read must therefore be multiplied by that weight before.
    """
    weights = sum(counted(batch, algorithm) for batch in batches)
    read = sum(batch.num_read for batch in batches)
    totals = torch.tensor([weights, read], dtype=torch.float64, device=next(model.parameters()).device)
    if dist.get_world_size() > 1:
        dist.all_reduce(totals, group=parallel_state.get_data_parallel_group())
    weight = float(totals[0] / totals[1])
    for module in model.modules():
        if isinstance(module, Router):
            module.balance_weight = weight


def counted(batch: MicroBatch, algorithm: Algorithm) -> float:
    """What the weights of the algorithm's loss on `batch` add up to, before there is a loss."""
    if algorithm.weights_of is not None and batch.num_rows:
        return float(algorithm.weights_of(batch.rows).sum())
    first = algorithm.sequences[0]
    if algorithm.per is Per.ROW:
        return float(batch.num_rows)
    return float(len(batch.spans[first.ids].row_T) if first.mask is None else batch.rows[first.mask].sum())
