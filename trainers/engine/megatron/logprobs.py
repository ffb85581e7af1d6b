"""Log-probabilities, entropy and the likeliest ids from logits whose vocabulary is cut over the tensor group.

Every function takes `logits_tV` [t, V / tensor], this rank's slice of the vocabulary, and gives the same answer on all
ranks of the group. No logits are gathered: what travels are a few numbers per token. All are differentiable except
`top_k`. Legend: t tokens, V this rank's part of the vocabulary, K choices per token.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from torch import Tensor

_IMPOSSIBLE = -1e9
"""A logit of probability 0 that is still far from overflow, so that 0 times its gradient is 0."""


def hide_padding(logits: Tensor, vocab_size: int) -> None:
    """Make ids from `vocab_size` on impossible, in place, [..., V]: rows that only fill a vocabulary up to be cut
    evenly.

    Their probability is exactly 0 from here on, and so is their gradient: the operation needs no backward.
    """
    real = vocab_size - _first_id(logits)
    if real < logits.shape[-1]:
        logits.detach()[..., max(real, 0) :] = _IMPOSSIBLE


def token_logprobs(logits_tV: Tensor, ids_t: Tensor) -> Tensor:
    """log pi(ids_t), [t], by Megatron's vocab-parallel cross-entropy; fp32 logits are used up (overwritten)."""
    losses = tensor_parallel.vocab_parallel_cross_entropy(logits_tV[:, None], ids_t[:, None])
    return -losses[:, 0]


def logprobs_at(logits_tV: Tensor, ids_tK: Tensor) -> Tensor:
    """log pi of any K ids per token, [t, K]."""
    shifted_tV, log_total_t = _normalized(logits_tV)
    return _gathered_at(shifted_tV, ids_tK) - log_total_t[:, None]


def logits_at(logits_tV: Tensor, ids_tK: Tensor) -> Tensor:
    """Logits of any K ids per token less the token's greatest, [t, K] in fp32; only these ids get a gradient."""
    return _gathered_at(_shifted(logits_tV), ids_tK)


def largest_logits(logits_tV: Tensor, k: int) -> Tensor:
    """The k largest logits of every token less the greatest, in order, [t, k] in fp32; only they get a gradient."""
    return logits_at(logits_tV, top_k(logits_tV, k)[1])


def _gathered_at(shifted_tV: Tensor, ids_tK: Tensor) -> Tensor:
    local_tK = ids_tK - _first_id(shifted_tV)
    here = (local_tK >= 0) & (local_tK < shifted_tV.shape[-1])
    values_tK = shifted_tV.gather(-1, local_tK.clamp(0, shifted_tV.shape[-1] - 1))
    return _sum_over_group(torch.where(here, values_tK, torch.zeros_like(values_tK)))


def entropy(logits_tV: Tensor) -> Tensor:
    """Entropy of every token's distribution in nats, [t]."""
    shifted_tV, log_total_t = _normalized(logits_tV)
    return log_total_t - _sum_over_group((shifted_tV.exp() * shifted_tV).sum(-1)) / log_total_t.exp()


@torch.no_grad()
def top_k(logits_tV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest ids of every token, likeliest first: (log-probabilities [t, k], ids [t, k])."""
    shifted_tV, log_total_t = _normalized(logits_tV)
    values_tk, ids_tk = shifted_tV.topk(min(k, logits_tV.shape[-1]), dim=-1)
    ids_tk = ids_tk + _first_id(logits_tV)
    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() > 1:
        values_tk, ids_tk = _gathered(values_tk, group), _gathered(ids_tk, group)
        values_tk, places_tk = values_tk.topk(k, dim=-1)
        ids_tk = ids_tk.gather(-1, places_tk)
    return values_tk - log_total_t[:, None], ids_tk


def _normalized(logits_tV: Tensor) -> tuple[Tensor, Tensor]:
    """Shifted logits (see `_shifted`), and the log of the sum of their exponentials over the whole vocabulary."""
    shifted_tV = _shifted(logits_tV)
    return shifted_tV, _sum_over_group(shifted_tV.exp().sum(-1)).log()


def _shifted(logits_tV: Tensor) -> Tensor:
    """Logits minus their greatest over the whole vocabulary, fp32."""
    logits_tV = logits_tV.float()
    greatest_t = logits_tV.detach().amax(-1)
    if parallel_state.get_tensor_model_parallel_world_size() > 1:
        dist.all_reduce(greatest_t, op=dist.ReduceOp.MAX, group=parallel_state.get_tensor_model_parallel_group())
    return logits_tV - greatest_t[:, None]


def _sum_over_group(values: Tensor) -> Tensor:
    return tensor_parallel.reduce_from_tensor_model_parallel_region(values)


def _first_id(logits_tV: Tensor) -> int:
    return parallel_state.get_tensor_model_parallel_rank() * logits_tV.shape[-1]


def _gathered(values_tk: Tensor, group: dist.ProcessGroup) -> Tensor:
    parts = [torch.empty_like(values_tk) for _ in range(group.size())]
    dist.all_gather(parts, values_tk.contiguous(), group=group)
    return torch.cat(parts, dim=-1)
