"""Rotary position embedding: the frequencies of a model's heads, and queries and keys turned by them.

Su et al. 2021, arXiv:2104.09864, in the halves layout of GPT-NeoX and Llama. A head's first `rotary_percent` is turned,
the rest passes as it is. Llama 3.1's stretch for longer texts is a change of the frequencies alone.

Tensor suffixes: s sequence, b batch, h heads, d head size, r turned part of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainers.architecture import ModelConfig, RopeScaling


def frequencies(model: ModelConfig) -> Tensor:
    """Angle per position of each turned pair, [r / 2], fp32: base^(-2i / r), stretched if the model says so."""
    size = model.rotary_size
    exponents = torch.arange(0, size, 2, dtype=torch.int64).float() / size
    plain = 1.0 / model.rope_base**exponents
    return plain if model.rope_scaling is None else _stretched(plain, model.rope_scaling)


def _stretched(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1: wavelengths above original / low are stretched by `factor`, those below original / high stay, and
    between them both are mixed.
    """
    wavelengths = 2 * math.pi / plain
    low, high, length = scaling.low_frequency, scaling.high_frequency, scaling.original_length
    slow = plain / scaling.factor
    share = (length / wavelengths - low) / (high - low)
    mixed = (1 - share) * slow + share * plain
    return torch.where(wavelengths > length / low, slow, torch.where(wavelengths < length / high, plain, mixed))


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """`x` [s, b, h, d] with the halves of its first r numbers turned by `table` [2 (cos, sin), s, b, 1, r / 2]."""
    size = 2 * table.shape[-1]
    turned, rest = (x, None) if size == x.shape[-1] else (x[..., :size], x[..., size:])
    (cos, sin), (low, high) = table.unbind(0), turned.chunk(2, dim=-1)
    parts = [low * cos - high * sin, high * cos + low * sin]
    return torch.cat(parts if rest is None else [*parts, rest], dim=-1)
