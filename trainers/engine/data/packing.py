"""Packed batches: sequences laid end to end, and the plan by which attention lays them side by side.

Attention over a packed batch runs per sequence. A loop costs a kernel call per sequence, a block-diagonal
mask costs t^2; the plan sorts the sequences into a few buckets of like length, so that each is one dense
causal call with little padding. It is made once per micro-batch, on the host, and shared by all layers.

Tensor suffixes: t tokens of a packed batch, n sequences, l bucket length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

_FILL, _SHORT = 0.7, 8
"""A bucket takes sequences of at least 0.7 of its length, or up to 8 tokens shorter."""


@dataclass
class Bucket:
    """`count` sequences of up to `length` tokens; `index_nl` names each place's token (None: they already lie
    so).

    Places after a sequence's end repeat its last token: causal attention never lets them be seen.
    """

    count: int
    length: int
    index_nl: Tensor | None


@dataclass
class Packed(PackedSeqParams):
    """Megatron's description of a packed batch, with the plan for `specs.SDPA`.

    `positions` [1, t] is each token's place in its own sequence; `last` [n] the index of each sequence's last
    token; `inverse_t` where each token lies in the buckets laid end to end. `keys_t` is what the dropout of adapters
    knows a token by.
    """

    buckets: list[Bucket] = field(default_factory=list)
    inverse_t: Tensor | None = None
    positions: Tensor | None = None
    last: Tensor | None = None
    keys_t: Tensor | None = None


def pack(lengths: Sequence[int], device: torch.device | str = "cpu") -> Packed:
    """The plan of a packed batch of sequences of these lengths (each at least 1), laid end to end in this
    order.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    assert sizes.size and sizes.min() > 0, f"a packed sequence has at least one token: {sizes.tolist()}"
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    starts, longest = bounds[:-1], int(sizes.max())
    buckets, inverse = _buckets(sizes, starts, torch.device(device))
    cu_seqlens = torch.as_tensor(bounds, dtype=torch.int32, device=device)
    positions = np.arange(bounds[-1]) - np.repeat(starts, sizes)
    return Packed(
        qkv_format="thd",
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_kv=cu_seqlens,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
        buckets=buckets,
        inverse_t=inverse,
        positions=torch.as_tensor(positions, device=device)[None],
        last=torch.as_tensor(bounds[1:] - 1, device=device),
    )


def _buckets(sizes: np.ndarray, starts: np.ndarray, device: torch.device) -> tuple[list[Bucket], Tensor | None]:
    if (sizes == sizes[0]).all():
        return [Bucket(len(sizes), int(sizes[0]), None)], None
    order = np.argsort(-sizes, kind="stable")
    falling = -sizes[order]
    buckets, inverse, at, base = [], np.empty(int(sizes.sum()), dtype=np.int64), 0, 0
    while at < len(order):
        length = int(-falling[at])
        shortest = min(_FILL * length, length - _SHORT)
        end = int(np.searchsorted(falling, -shortest, side="right"))
        chosen, place = order[at:end], np.arange(length)
        index = starts[chosen, None] + np.minimum(place, sizes[chosen, None] - 1)
        real = place < sizes[chosen, None]
        inverse[index[real]] = base + np.flatnonzero(real)
        buckets.append(Bucket(end - at, length, torch.as_tensor(index.reshape(-1), device=device)))
        at, base = end, base + index.size
    return buckets, torch.as_tensor(inverse, device=device)
