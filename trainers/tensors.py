"""The tensors of a Megatron network as its checkpoints hold them: every layer's, and every expert's, in one stack.

What a network learns and what a token is multiplied with are counted from the same list; nothing here needs torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from trainers.architecture import ModelConfig, padded_vocabulary

Index = tuple[int, ...]
_EMBEDDING, _HEAD = "embedding.word_embeddings.weight", "output_layer.weight"


@dataclass(frozen=True)
class Stack:
    """One tensor of a checkpoint: pieces of `shape`, one for each index below `lead` (layers, then experts)."""

    name: str
    shape: tuple[int, ...]
    lead: Index = ()

    @property
    def size(self) -> tuple[int, ...]:
        """Shape of the whole tensor, before it is cut over ranks."""
        return self.lead + self.shape

    def indices(self) -> Iterator[Index]:
        """The pieces, in the order of the whole's bytes."""
        return itertools.product(*map(range, self.lead))


def stacks(model: ModelConfig, *, padded: bool = True) -> dict[str, Stack]:
    """Every tensor of the network of `model`, by name; vocabulary rows filled up as at tensor size 1 where `padded`."""
    hidden, layers = model.hidden_size, (model.num_layers,)
    rows = padded_vocabulary(model, 1) if padded else model.vocab_size
    stacked = [Stack(_EMBEDDING, (rows, hidden))]
    if model.position == "learned":
        stacked.append(Stack("embedding.position_embeddings.weight", (model.max_sequence_length, hidden)))
    stacked += [
        *_attention(model, layers),
        *(_mlp(model, layers) if model.experts is None else _experts(model, layers)),
    ]
    stacked += _norm(model, "decoder.final_layernorm.", hidden, ())
    if model.head == "scalar":
        stacked.append(Stack(_HEAD, (model.head_size, hidden)))
    elif not model.tie_embeddings:
        stacked.append(Stack(_HEAD, (rows, hidden)))
    return {stack.name: stack for stack in stacked}


def parameters(model: ModelConfig) -> int:
    """How many numbers a network of this shape learns; rows that only fill the vocabulary up are not counted."""
    return sum(math.prod(stack.size) for stack in stacks(model, padded=False).values())


def active_weights(model: ModelConfig) -> int:
    """Weights one token is multiplied with: attention, MLP (of the chosen experts only, with the router) and head.

    Looking up an embedding multiplies nothing; norms and biases are left out.
    """
    tensors = stacks(model, padded=False)
    used = [stack for name, stack in tensors.items() if name.startswith("decoder.") and len(stack.shape) == 2]
    count = math.prod(tensors.get(_HEAD, tensors[_EMBEDDING]).size)
    for stack in used:
        layers, *experts = stack.lead
        chosen = model.experts.per_token if experts and model.experts is not None else 1
        count += layers * chosen * math.prod(stack.shape)
    return count


def _attention(model: ModelConfig, layers: Index) -> list[Stack]:
    hidden, heads, groups = model.hidden_size, model.num_attention_heads, model.num_query_groups
    size = model.head_channels
    rows, here = (heads + 2 * groups) * size, "decoder.layers.self_attention."
    stacked = _norm(model, here + "linear_qkv.layer_norm_", hidden, layers)
    stacked += [Stack(here + "linear_qkv.weight", (rows, hidden), layers)]
    stacked += [Stack(here + "linear_proj.weight", (hidden, heads * size), layers)]
    if model.qkv_bias or model.linear_bias:
        stacked.append(Stack(here + "linear_qkv.bias", (rows,), layers))
    if model.linear_bias:
        stacked.append(Stack(here + "linear_proj.bias", (hidden,), layers))
    if model.qk_layernorm:
        stacked += [
            norm for name in ("q_layernorm.", "k_layernorm.") for norm in _norm(model, here + name, size, layers)
        ]
    return stacked


def _mlp(model: ModelConfig, layers: Index) -> list[Stack]:
    hidden, width, here = model.hidden_size, model.ffn_hidden_size, "decoder.layers.mlp."
    wide = 2 * width if model.gated else width
    stacked = _norm(model, here + "linear_fc1.layer_norm_", hidden, layers)
    stacked += [Stack(here + "linear_fc1.weight", (wide, hidden), layers)]
    stacked += [Stack(here + "linear_fc2.weight", (hidden, width), layers)]
    if model.linear_bias:
        stacked.append(Stack(here + "linear_fc1.bias", (wide,), layers))
        stacked.append(Stack(here + "linear_fc2.bias", (hidden,), layers))
    return stacked


def _experts(model: ModelConfig, layers: Index) -> list[Stack]:
    assert model.experts is not None, "a mixture"
    hidden, width, number = model.hidden_size, model.ffn_hidden_size, model.experts.number
    wide = 2 * width if model.gated else width
    here, lead = "decoder.layers.mlp.", (*layers, number)
    stacked = _norm(model, "decoder.layers.pre_mlp_layernorm.", hidden, layers)
    stacked.append(Stack(here + "router.weight", (number, hidden), layers))
    stacked.append(Stack(here + "experts.experts.linear_fc1.weight", (wide, hidden), lead))
    stacked.append(Stack(here + "experts.experts.linear_fc2.weight", (hidden, width), lead))
    return stacked


def _norm(model: ModelConfig, name: str, size: int, lead: Index) -> list[Stack]:
    parts = ("weight", "bias") if model.normalization == "LayerNorm" else ("weight",)
    return [Stack(name + part, (size,), lead) for part in parts]
