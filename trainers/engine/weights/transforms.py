"""How tensors of a Hugging Face folder become one of Megatron's, and back: each way by name.

A transform takes the pieces of one layer. `join` makes Megatron's piece of `shape` out of the folder's parts, `split`
the parts out of the piece, `shapes` says what the parts must look like. All are exact: bytes move, none changes.

Letters: n query heads, g key-value groups, d numbers of a head, h hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.architecture import ModelConfig

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Transform:
    """A named pair of inverse maps between the folder's parts and Megatron's piece."""

    name: str
    shapes: Callable[[Shape, ModelConfig], list[Shape]]
    join: Callable[[Sequence[Tensor], Shape, ModelConfig], Tensor]
    split: Callable[[Tensor, ModelConfig], list[Tensor]]


def _whole_to_vocabulary(whole: Tensor, model: ModelConfig) -> list[Tensor]:
    return [whole[: model.vocab_size]]


def _vocabulary_to_whole(parts: Sequence[Tensor], shape: Shape, model: ModelConfig) -> Tensor:
    missing = shape[0] - model.vocab_size
    return F.pad(parts[0], (0, 0, 0, missing)) if missing else parts[0]


def _head_size(model: ModelConfig) -> int:
    return model.head_channels


def _rows(model: ModelConfig) -> list[int]:
    size, groups = _head_size(model), model.num_query_groups
    return [model.num_attention_heads * size, groups * size, groups * size]


def _group(parts: Sequence[Tensor], shape: Shape, model: ModelConfig) -> Tensor:
    """[n d, ...], [g d, ...], [g d, ...] -> for each group its query heads, its key, its value: [(n + 2g) d, ...]."""
    groups, size = model.num_query_groups, _head_size(model)
    cut = [part.reshape(groups, -1, size, *shape[1:]) for part in parts]
    return torch.cat(cut, dim=1).reshape(shape)


def _ungroup(whole: Tensor, model: ModelConfig) -> list[Tensor]:
    groups, size = model.num_query_groups, _head_size(model)
    queries = model.num_attention_heads // groups
    cut = whole.reshape(groups, queries + 2, size, *whole.shape[1:]).split([queries, 1, 1], dim=1)
    return [part.reshape(-1, *whole.shape[1:]) for part in cut]


PLAIN = Transform(
    "plain",
    lambda shape, model: [shape],
    lambda parts, shape, model: parts[0],
    lambda whole, model: [whole],
)
"""The same tensor."""

VOCABULARY = Transform(
    "vocabulary",
    lambda shape, model: [(model.vocab_size, *shape[1:])],
    _vocabulary_to_whole,
    _whole_to_vocabulary,
)
"""Rows of ids; Megatron's are filled up with zeros."""

TRANSPOSED = Transform(
    "transposed",
    lambda shape, model: [shape[::-1]],
    lambda parts, shape, model: parts[0].t().contiguous(),
    lambda whole, model: [whole.t().contiguous()],
)
"""GPT-2's Conv1D keeps its weights as [inputs, outputs]."""

GROUPED = Transform(
    "grouped",
    lambda shape, model: [(rows, *shape[1:]) for rows in _rows(model)],
    _group,
    _ungroup,
)
"""Query, key and value apart; Megatron keeps them together, group by group."""

GROUPED_TRANSPOSED = Transform(
    "grouped-transposed",
    lambda shape, model: [shape[::-1]],
    lambda parts, shape, model: _group(parts[0].t().split(_rows(model)), shape, model),
    lambda whole, model: [torch.cat(_ungroup(whole, model)).t().contiguous()],
)
"""Query, key and value one after the other in a Conv1D (or in its bias)."""

HALVES = Transform(
    "halves",
    lambda shape, model: [(shape[0] // 2, *shape[1:])] * 2,
    lambda parts, shape, model: torch.cat(list(parts)),
    lambda whole, model: list(whole.chunk(2)),
)
"""Gate and up projection apart; Megatron keeps gate over up."""
