"""Qwen 3 (dense): Llama's layers with RMSNorm on every query and key head."""

from __future__ import annotations

from typing import Any

from trainers.architecture import ModelConfig
from trainers.engine.weights import tables
from trainers.engine.weights.family import Family, rule
from trainers.engine.weights.hfconfig import Config

_NORMS = (
    rule("decoder.layers.self_attention.q_layernorm.weight", "model.layers.{layer}.self_attn.q_norm.weight"),
    rule("decoder.layers.self_attention.k_layernorm.weight", "model.layers.{layer}.self_attn.k_norm.weight"),
)


def _read(config: Config) -> dict[str, Any]:
    sizes = tables.sizes(config)
    config.hold("hidden_act", ("silu",), "silu")
    config.hold("attention_bias", (False,), False)
    return sizes | {
        "kv_channels": tables.head_size(config, sizes, default=128),
        "norm_epsilon": config.number("rms_norm_eps", 1e-6),
        **tables.windows(config, sizes),
        **config.rope(sizes["max_sequence_length"]),
    }


def _write(model: ModelConfig) -> dict[str, Any]:
    keys = tables.sizes_of(model) | tables.head_size_of(model)
    keys |= tables.windows_of(model) | tables.rope_keys(model)
    return keys | {"attention_bias": False, "rms_norm_eps": model.norm_epsilon}


QWEN3 = Family(
    name="qwen3",
    causal="Qwen3ForCausalLM",
    scalar="Qwen3ForSequenceClassification",
    read=_read,
    write=_write,
    rules=(*tables.TRUNK, *tables.GATED, *_NORMS),
    fixed={
        **tables.LLAMA_LIKE,
        "qkv_bias": (False,),
        "linear_bias": (False,),
        "qk_layernorm": (True,),
        "experts": (None,),
    },
    loose=tables.ROPE_BUFFER,
)
