"""Rows of tensor tables that several families share, and what their configs have in common.

Names follow Llama's; a family joins what it needs.
"""

from __future__ import annotations

from typing import Any

from schemas.errors import printable
from trainers.architecture import ModelConfig
from trainers.engine.weights.family import Rule, rule
from trainers.engine.weights.hfconfig import Config, rope_of
from trainers.engine.weights.transforms import GROUPED, HALVES, VOCABULARY

_HERE, _ATTENTION, _MLP = "model.layers.{layer}.", "decoder.layers.self_attention.", "decoder.layers.mlp."
_QKV = tuple(f"{_HERE}self_attn.{letter}_proj." for letter in "qkv")

TRUNK = (
    rule("embedding.word_embeddings.weight", "model.embed_tokens.weight", through=VOCABULARY),
    rule(_ATTENTION + "linear_qkv.layer_norm_weight", _HERE + "input_layernorm.weight"),
    rule(_ATTENTION + "linear_qkv.weight", *(name + "weight" for name in _QKV), through=GROUPED),
    rule(_ATTENTION + "linear_qkv.bias", *(name + "bias" for name in _QKV), through=GROUPED),
    rule(_ATTENTION + "linear_proj.weight", _HERE + "self_attn.o_proj.weight"),
    rule(_ATTENTION + "linear_proj.bias", _HERE + "self_attn.o_proj.bias"),
    rule("decoder.final_layernorm.weight", "model.norm.weight"),
)
"""Embedding, attention and norms."""

MLP_NORM = rule(_MLP + "linear_fc1.layer_norm_weight", _HERE + "post_attention_layernorm.weight")
"""The norm before a dense MLP."""

_GATE, _UP, _DOWN = (f"{_HERE}mlp.{name}_proj." for name in ("gate", "up", "down"))

DOWN = (rule(_MLP + "linear_fc2.weight", _DOWN + "weight"), rule(_MLP + "linear_fc2.bias", _DOWN + "bias"))
"""The second linear of an MLP."""

GATED = (
    MLP_NORM,
    rule(_MLP + "linear_fc1.weight", _GATE + "weight", _UP + "weight", through=HALVES),
    rule(_MLP + "linear_fc1.bias", _GATE + "bias", _UP + "bias", through=HALVES),
    *DOWN,
)
"""A gated MLP with its norm."""

UNGATED = (
    MLP_NORM,
    rule(_MLP + "linear_fc1.weight", _UP + "weight"),
    rule(_MLP + "linear_fc1.bias", _UP + "bias"),
    *DOWN,
)
"""An MLP without a gate, with its norm."""

BIASES: tuple[Rule, ...] = (
    rule(_ATTENTION + "linear_qkv.layer_norm_bias", _HERE + "input_layernorm.bias"),
    rule(_MLP + "linear_fc1.layer_norm_bias", _HERE + "post_attention_layernorm.bias"),
    rule("decoder.final_layernorm.bias", "model.norm.bias"),
)
"""Biases of LayerNorm."""

ROPE_BUFFER = {r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq": "computed from rope_theta"}
"""What old folders hold besides weights."""

LLAMA_LIKE: dict[str, tuple[Any, ...]] = {
    "position": ("rope",),
    "rotary_percent": (1.0,),
    "normalization": ("RMSNorm",),
    "zero_centered_norm": (False,),
    "gated": (True,),
    "activation": ("silu",),
}
"""What Llama and most that came after it have in common; families add the rest."""


_ATTENTIONS = ("full_attention", "sliding_attention")


def sizes(config: Config, groups: int | None = None) -> dict[str, Any]:
    """The sizes of a Llama-like config; absent `num_key_value_heads` is `groups`, or the number of heads."""
    heads = config.count("num_attention_heads")
    return {
        "num_layers": config.count("num_hidden_layers"),
        "hidden_size": config.count("hidden_size"),
        "ffn_hidden_size": config.count("intermediate_size"),
        "num_attention_heads": heads,
        "num_query_groups": config.count("num_key_value_heads", groups or heads),
        "vocab_size": config.count("vocab_size"),
        "max_sequence_length": config.count("max_position_embeddings"),
    }


def head_size(config: Config, sizes: dict[str, Any], default: int | None = None) -> int | None:
    """Numbers per head where that is not hidden size over heads; absent `head_dim` is `default`."""
    given = config.maybe("head_dim") or default
    return None if given is None or given * sizes["num_attention_heads"] == sizes["hidden_size"] else given


def windows(config: Config, sizes: dict[str, Any]) -> dict[str, Any]:
    """Qwen's window: in all layers or in none (`max_window_layers` says from which layer on)."""
    layers = sizes["num_layers"]
    size = config.maybe("sliding_window") if "sliding_window" in config.data else 4096
    used, first = config.flag("use_sliding_window", False), config.count("max_window_layers", 28)
    config.ignore({"layer_types": "read here"})
    kinds = config.data.get("layer_types")
    if kinds is None:
        windowed = max(0, layers - max(0, first)) if used and size is not None else 0
    elif isinstance(kinds, list) and len(kinds) == layers and all(kind in _ATTENTIONS for kind in kinds):
        windowed = kinds.count("sliding_attention")
    else:
        config.fault(f"layer_types {printable(kinds)} is no list of {' or '.join(_ATTENTIONS)} for {layers} layers")
        return {"window": None}
    if not windowed:
        return {"window": None}
    if windowed == layers and used and size is not None:
        return {"window": size}
    config.fault(f"use_sliding_window with max_window_layers {first}: a window in some layers only is not supported")
    return {"window": None}


def sizes_of(model: ModelConfig) -> dict[str, Any]:
    """The sizes of `model` under the names that Llama's config.json has for them."""
    return {
        "num_hidden_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "max_position_embeddings": model.max_sequence_length,
        "hidden_act": model.activation,
    }


def head_size_of(model: ModelConfig) -> dict[str, Any]:
    """Numbers per head as config.json."""
    return {"head_dim": model.head_channels}


def rope_keys(model: ModelConfig, share: bool = False) -> dict[str, Any]:
    """Rope as config.json; `share`: with the share of each head that is turned."""
    return rope_of(model.rope_base, model.rotary_percent if share else None, model.rope_scaling)


def windows_of(model: ModelConfig) -> dict[str, Any]:
    """The sliding window of `model` under the names of Qwen's config.json."""
    kind = "full_attention" if model.window is None else "sliding_attention"
    return {
        "use_sliding_window": model.window is not None,
        "sliding_window": model.window,
        "max_window_layers": model.num_layers if model.window is None else 0,
        "layer_types": [kind] * model.num_layers,
    }
