"""Dropout on the input of adapters whose mask is a function of what is learnt, not of how it is cut.

An element is dropped by a hash of (seed, step, the tokens of its own sequence, its place in it, the linear's name, the
feature): no generator has a state, so a resumed run drops what it would have dropped, recomputation drops it again, and
tensor, sequence, pipeline and data parallel sizes, micro-batches and packing change nothing. Two equal sequences of one
step get equal masks. The hash is lowbias32 (C. Wellons, "Prospecting for hash functions", 2018) on 32-bit integers.

Tensor suffixes: t tokens of a packed batch, n sequences, h features of a linear's input.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from trainers.engine.data.packing import Packed


class Dropout:
    """What the adapters of one network share: the rate, the step, and the keys of the tokens that a layer now reads."""

    def __init__(self, rate: float, seed: int) -> None:
        self.rate, self.seed, self.step = rate, seed, 0
        self._keys_t: Tensor | None = None

    def before_network(self, network: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Forward pre-hook of the network: note the keys of the micro-batch on its plan."""
        plan = named.get("packed_seq_params")
        if self.rate and network.training and plan is not None:
            plan.keys_t = token_keys(arguments[0][0], plan, _number(f"{self.seed}/{self.step}"))

    def before_layer(self, layer: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Forward pre-hook of a layer: its micro-batch is the one at hand, in a recomputation too."""
        plan = named.get("packed_seq_params")
        self._keys_t = None if plan is None else plan.keys_t

    def drop(self, x: Tensor, name: str, first_token: int, first_feature: int) -> Tensor:
        """`x` [s, 1, h], the input of linear `name` from that token and feature on, thinned, over (1 - rate)."""
        assert self._keys_t is not None, f"{name}: dropout in training needs a packed batch"
        keys_t = self._keys_t[first_token : first_token + x.shape[0]]
        features_h = torch.arange(first_feature, first_feature + x.shape[-1], dtype=torch.int32, device=x.device)
        drawn_th = mixed(keys_t[:, None] ^ mixed(features_h ^ _number(name)))
        kept_th = drawn_th.bitwise_and_(0x7FFFFFFF) >= int(self.rate * 2**31)
        return x * kept_th[:, None] * (1 / (1 - self.rate))


def token_keys(tokens_t: Tensor, plan: Packed, key: int) -> Tensor:
    """A number per token, of `key`, the tokens of its sequence and its place there; [t] int32."""
    assert plan.positions is not None and plan.cu_seqlens_q is not None
    places_t = mixed(plan.positions[0].int())
    lengths_n = plan.cu_seqlens_q.diff()
    rows_t = torch.arange(len(lengths_n), device=tokens_t.device).repeat_interleave(lengths_n)
    sums_n = torch.zeros(len(lengths_n), dtype=torch.int32, device=tokens_t.device)
    sums_n.index_add_(0, rows_t, mixed(tokens_t.int() ^ places_t))
    return mixed(mixed(sums_n ^ key)[rows_t] ^ places_t)


def mixed(x: Tensor) -> Tensor:
    """lowbias32 (Wellons 2018) of every int32 of `x`, on any device; bits as of uint32."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x.mul_(0x7FEB352D)
    x = x.bitwise_xor_((x >> 15) & 0x1FFFF)
    x = x.mul_(0x846CA68B - 2**32)
    return x.bitwise_xor_((x >> 16) & 0xFFFF)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big", signed=True)
