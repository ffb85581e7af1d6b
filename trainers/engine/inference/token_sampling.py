"""Drawing tokens from logits, with randomness that belongs to the row.

Each draw is the inverse of the distribution's cumulative sum at a uniform number that is a pure function of
(row seed, sample index, step): SplitMix64 in counter mode (Steele et al. 2014). Neither the batch, nor the
order of work, nor a restart can change it.

Tensor suffixes: b rows, V vocabulary, k candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_GOLDEN, _FIRST, _SECOND = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
)
_PREFILTER = 1024
_AT_ONCE = 1 << 24


def mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's output function (Steele et al. 2014) of each uint64 of `state`, modulo 2**64."""
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))


def streams(seeds: npt.NDArray[np.uint64], sample_index: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """One stream per (seed of a prompt, index of a sample)."""
    return mix(mix(seeds + _GOLDEN) + (sample_index.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def uniforms(stream: npt.NDArray[np.uint64], step: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The number in [0, 1) that each stream holds for its step (from 0), 53 bits."""
    state = mix(stream + (step.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True)
class Distribution:
    """What is drawn from: softmax(logits / temperature), cut to the `top_k` likeliest (0: all), then to the
    nucleus of mass `top_p` (Holtzman et al. 2020, arXiv:1904.09751). `greedy` takes the likeliest.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    greedy: bool = False

    def draw(self, logits_bV: Tensor, uniforms_b: npt.NDArray[np.float64]) -> Tensor:
        """One token id per row, [b] int64; `logits_bV` fp32."""
        if self.greedy:
            return logits_bV.argmax(dim=-1)
        points_b = torch.from_numpy(uniforms_b).to(logits_bV.device)
        size = max(1, _AT_ONCE // logits_bV.shape[1])
        parts = zip(logits_bV.split(size), points_b.split(size), strict=True)
        return torch.cat([self._draw(logits, points) for logits, points in parts])

    def _draw(self, logits_bV: Tensor, points_b: Tensor) -> Tensor:
        scaled_bV, vocab_size = logits_bV / self.temperature, logits_bV.shape[1]
        if 0 < self.top_k < vocab_size:
            values_bk, ids_bk = scaled_bV.topk(self.top_k, dim=-1)
            return ids_bk.gather(1, _inverse(_nucleus(values_bk.softmax(-1), self.top_p), points_b)[:, None])[:, 0]
        if self.top_p >= 1:
            return _inverse(scaled_bV.softmax(-1), points_b)
        return self._draw_nucleus(scaled_bV.softmax(-1), points_b)

    def _draw_nucleus(self, probabilities_bV: Tensor, points_b: Tensor) -> Tensor:
        """The nucleus of most rows lies among few candidates; only the other rows are sorted whole."""
        candidates = min(_PREFILTER, probabilities_bV.shape[1])
        values_bk, ids_bk = probabilities_bV.topk(candidates, dim=-1)
        drawn_b = ids_bk.gather(1, _inverse(_nucleus(values_bk, self.top_p), points_b)[:, None])[:, 0]
        wide_b = values_bk.sum(-1, dtype=torch.float64) < self.top_p
        if candidates < probabilities_bV.shape[1] and bool(wide_b.any()):
            sorted_bV, order_bV = probabilities_bV[wide_b].sort(dim=-1, descending=True)
            place = _inverse(_nucleus(sorted_bV, self.top_p), points_b[wide_b])
            drawn_b[wide_b] = order_bV.gather(1, place[:, None])[:, 0]
        return drawn_b


def _nucleus(falling_bk: Tensor, mass: float) -> Tensor:
    """Falling probabilities with everything after the first `mass` of them set to zero."""
    if mass >= 1:
        return falling_bk
    before_bk = falling_bk.cumsum(-1, dtype=torch.float64) - falling_bk
    return falling_bk.masked_fill(before_bk >= mass, 0.0)


def _inverse(weights_bk: Tensor, points_b: Tensor) -> Tensor:
    """Where the running sum of each row's weights passes `points_b` of its total, [b]."""
    sums_bk = weights_bk.cumsum(-1, dtype=torch.float64)
    targets_b = points_b * sums_bk[:, -1]
    places_b = torch.searchsorted(sums_bk, targets_b[:, None], right=True)[:, 0]
    last_b = (sums_bk < sums_bk[:, -1:]).sum(-1)
    return torch.minimum(places_b, last_b)


def logprobs(logits_bV: Tensor, ids_b: Tensor) -> Tensor:
    """Log-probability (nats) of each row's id under softmax(logits): the policy at temperature 1, nothing
    cut, [b].
    """
    return logits_bV.gather(1, ids_b[:, None])[:, 0] - logits_bV.logsumexp(-1)
