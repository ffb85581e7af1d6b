"""Llama 2, 3 and 3.1: RMSNorm, SwiGLU, rope with or without Llama 3.1's scaling, biases everywhere or nowhere."""

from __future__ import annotations

from typing import Any

from trainers.architecture import ModelConfig
from trainers.engine.weights import tables
from trainers.engine.weights.family import Family
from trainers.engine.weights.hfconfig import Config


def _read(config: Config) -> dict[str, Any]:
    sizes = tables.sizes(config)
    config.hold("hidden_act", ("silu",), "silu")
    biased = config.flag("attention_bias", False)
    if config.flag("mlp_bias", False) != biased:
        config.fault(f"attention_bias {biased} with mlp_bias {not biased} is not supported (the same in both is)")
    return sizes | {
        "kv_channels": tables.head_size(config, sizes),
        "linear_bias": biased,
        "norm_epsilon": config.number("rms_norm_eps", 1e-6),
        **config.rope(sizes["max_sequence_length"]),
    }


def _write(model: ModelConfig) -> dict[str, Any]:
    keys = tables.sizes_of(model) | tables.head_size_of(model) | tables.rope_keys(model)
    return keys | {
        "attention_bias": model.linear_bias,
        "mlp_bias": model.linear_bias,
        "rms_norm_eps": model.norm_epsilon,
    }


LLAMA = Family(
    name="llama",
    causal="LlamaForCausalLM",
    scalar="LlamaForSequenceClassification",
    read=_read,
    write=_write,
    rules=(*tables.TRUNK, *tables.GATED),
    fixed={
        **tables.LLAMA_LIKE,
        "qkv_bias": (False,),
        "qk_layernorm": (False,),
        "window": (None,),
        "experts": (None,),
    },
    loose=tables.ROPE_BUFFER,
)
