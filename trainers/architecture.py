"""The shape of a decoder-only transformer, as plain settings: what `model.json` of a checkpoint holds.

One dataclass covers the families that Quiver reads and writes (Llama, Mistral, Mixtral, Nemotron, GPT-2, Qwen). A
shape says what the network computes; how it is cut over processes, trained or kept in memory is said elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3.1's stretched rope: slow frequencies are divided by `factor`, fast ones stay, those between are mixed.

    A wavelength above `original_length / low_frequency` (positions) is slow, one below `original_length /
    high_frequency` is fast.
    """

    factor: float
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    original_length: int = 8192


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A mixture of experts in place of every MLP: `number` of them, the best `per_token` by a linear router answer.

    Weights are a softmax over the chosen experts (Mixtral), or with `softmax_first` over all of them before the choice.
    `balance` weighs the load-balancing loss of every layer in training (Switch Transformer; 0: none). That loss is one
    of a micro-batch: with `balance` above 0, and then alone, what is learnt depends on how batches are cut into those.
    """

    number: int
    per_token: int
    softmax_first: bool = False
    balance: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a decoder-only transformer; sizes in units, `norm_epsilon` and `rope_base` as in the papers.

    `head="lm"` gives log-probabilities over `vocab_size` ids, `head="scalar"` gives `head_size` numbers per token.
    `window` keeps that many last tokens in attention (None: all). `num_query_groups` < heads is grouped-query
    attention. `rotary_percent` is the share of each head that rope turns; `zero_centered_norm` stores norm weights less
    one (layernorm1p); `experts` replaces every MLP by a mixture, each expert of `ffn_hidden_size`.
    """

    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    kv_channels: int | None = None
    vocab_size: int
    max_sequence_length: int
    position: Literal["rope", "learned"] = "rope"
    rope_base: float = 10000.0
    rotary_percent: float = 1.0
    rope_scaling: RopeScaling | None = None
    normalization: Literal["RMSNorm", "LayerNorm"] = "RMSNorm"
    zero_centered_norm: bool = False
    gated: bool = True
    activation: Literal["silu", "gelu", "squared_relu"] = "silu"
    tie_embeddings: bool = False
    qkv_bias: bool = False
    linear_bias: bool = False
    qk_layernorm: bool = False
    window: int | None = None
    experts: Experts | None = None
    norm_epsilon: float = 1e-5
    head: Literal["lm", "scalar"] = "lm"
    head_size: int = 1

    @property
    def head_channels(self) -> int:
        """Size of one attention head."""
        return self.kv_channels or self.hidden_size // self.num_attention_heads

    @property
    def rotary_size(self) -> int:
        """How many numbers of a head rope turns, from its front."""
        return int(self.head_channels * self.rotary_percent)


OUTPUT_NAMES = "output_names"
"""The fact under which a checkpoint says what the numbers of its scalar head are called."""


def recorded_outputs(recorded: object, size: int) -> tuple[str, ...]:
    """The names that a checkpoint `recorded` (`OUTPUT_NAMES`) for the `size` numbers of its scalar head; empty unless
    they are as many, and different.
    """
    names = tuple(recorded) if isinstance(recorded, list) and all(isinstance(name, str) for name in recorded) else ()
    return names if len(set(names)) == len(names) == size else ()


def output_names(recorded: object, size: int) -> tuple[str, ...]:
    """What the `size` numbers of a scalar head are called: as `recorded`, or `reward`, of several `reward_0` on."""
    usual = ("reward",) if size == 1 else tuple(f"reward_{number}" for number in range(size))
    return recorded_outputs(recorded, size) or usual


_VOCABULARY_MULTIPLE = 8


def padded_vocabulary(model: ModelConfig, tensor: int) -> int:
    """Rows of the embedding: the vocabulary filled up so that `tensor` slices are equal and a multiple of 8."""
    multiple = _VOCABULARY_MULTIPLE * tensor
    return -(-model.vocab_size // multiple) * multiple


CEILINGS = {
    "num_layers": 2048,
    "hidden_size": 1 << 17,
    "ffn_hidden_size": 1 << 20,
    "kv_channels": 1 << 13,
    "num_attention_heads": 1 << 12,
    "num_query_groups": 1 << 12,
    "vocab_size": 1 << 24,
    "max_sequence_length": 1 << 26,
    "window": 1 << 26,
    "head_size": 1 << 16,
}
"""The greatest size of each count: several times that of any published model, so that a lie is no work."""

MOST_EXPERTS = 1 << 12
"""The greatest number of experts in a layer."""


def shape_faults(model: ModelConfig) -> list[str]:
    """Why `model` contradicts itself; empty when it does not."""
    faults: list[str] = []
    for name, most in CEILINGS.items():
        size = getattr(model, name)
        if size is not None and not 1 <= size <= most:
            faults.append(f"model.{name} {size} is below 1" if size < 1 else f"model.{name} {size} is above {most}")
    if model.experts is not None and model.experts.number > MOST_EXPERTS:
        faults.append(f"model.experts.number {model.experts.number} is above {MOST_EXPERTS}")
    if not 0 <= model.norm_epsilon < 1:
        faults.append(f"model.norm_epsilon {model.norm_epsilon} is not in [0, 1)")
    if faults:
        return faults
    if model.kv_channels is None and model.hidden_size % model.num_attention_heads:
        text = f"model.hidden_size {model.hidden_size} does not divide by {model.num_attention_heads} heads"
        faults.append(f"{text} (or give kv_channels)")
    if model.num_attention_heads % model.num_query_groups:
        text = f"model.num_attention_heads {model.num_attention_heads} does not divide by"
        faults.append(f"{text} num_query_groups {model.num_query_groups}")
    if model.head == "lm" and model.head_size != 1:
        faults.append("model.head_size has no effect with head lm")
    if model.head == "scalar" and model.tie_embeddings:
        faults.append("model.tie_embeddings cannot hold with head scalar")
    return faults + _rope_faults(model) + _expert_faults(model)


def _rope_faults(model: ModelConfig) -> list[str]:
    faults: list[str] = []
    if not 1 <= model.rope_base <= 1e18:
        faults.append(f"model.rope_base {model.rope_base} is not in [1, 1e18]")
    if not 0 < model.rotary_percent <= 1:
        faults.append(f"model.rotary_percent {model.rotary_percent} is not in (0, 1]")
    elif model.position == "rope" and (model.rotary_size < 2 or model.rotary_size % 2):
        faults.append(f"rope turns {model.rotary_size} of {model.head_channels} numbers of a head: not an even count")
    if model.position != "rope" and (model.rope_scaling is not None or model.rotary_percent != 1):
        faults.append(f"rope settings have no effect with model.position {model.position}")
    scaling = model.rope_scaling
    if scaling is not None and not (
        1 <= scaling.factor < math.inf and 0 < scaling.low_frequency < scaling.high_frequency
    ):
        faults.append("model.rope_scaling needs factor >= 1 and 0 < low_frequency < high_frequency")
    if scaling is not None and scaling.original_length < 1:
        faults.append(f"model.rope_scaling.original_length {scaling.original_length} is below 1")
    return faults


def _expert_faults(model: ModelConfig) -> list[str]:
    experts = model.experts
    if experts is None:
        return []
    faults = []
    if not 1 <= experts.per_token <= experts.number:
        faults.append(f"model.experts.per_token {experts.per_token} is not in 1..{experts.number}")
    if experts.per_token == 1 and not experts.softmax_first:
        faults.append("model.experts.per_token 1 needs softmax_first: over one expert it is always 1, and the router")
        faults[-1] += " learns nothing"
    if experts.balance < 0:
        faults.append(f"model.experts.balance {experts.balance} is below 0")
    if model.linear_bias:
        faults.append("model.linear_bias cannot hold with experts")
    return faults
