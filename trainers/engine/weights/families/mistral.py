"""Mistral: Llama's layers with a window of attention in every one of them."""

from __future__ import annotations

from typing import Any

from trainers.architecture import ModelConfig
from trainers.engine.weights import tables
from trainers.engine.weights.family import Family
from trainers.engine.weights.hfconfig import Config


def _read(config: Config) -> dict[str, Any]:
    sizes = tables.sizes(config, groups=8)
    config.hold("hidden_act", ("silu",), "silu")
    window = config.maybe("sliding_window") if "sliding_window" in config.data else 4096
    return sizes | {
        "kv_channels": tables.head_size(config, sizes),
        "window": window,
        "norm_epsilon": config.number("rms_norm_eps", 1e-6),
        **config.rope(sizes["max_sequence_length"]),
    }


def _write(model: ModelConfig) -> dict[str, Any]:
    keys = tables.sizes_of(model) | tables.head_size_of(model) | tables.rope_keys(model)
    return keys | {"sliding_window": model.window, "rms_norm_eps": model.norm_epsilon}


MISTRAL = Family(
    name="mistral",
    causal="MistralForCausalLM",
    scalar="MistralForSequenceClassification",
    read=_read,
    write=_write,
    rules=(*tables.TRUNK, *tables.GATED),
    fixed={
        **tables.LLAMA_LIKE,
        "qkv_bias": (False,),
        "linear_bias": (False,),
        "qk_layernorm": (False,),
        "experts": (None,),
    },
    loose=tables.ROPE_BUFFER,
)
