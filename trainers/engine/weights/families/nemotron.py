"""Nemotron-4 and Minitron: layernorm1p, squared ReLU without a gate, rope over a share of each head."""

from __future__ import annotations

from typing import Any

from trainers.architecture import ModelConfig
from trainers.engine.weights import tables
from trainers.engine.weights.family import Family
from trainers.engine.weights.hfconfig import Config


def _read(config: Config) -> dict[str, Any]:
    sizes = tables.sizes(config)
    config.hold("hidden_act", ("relu2",), "relu2")
    biased = config.flag("attention_bias", False)
    if config.flag("mlp_bias", False) != biased:
        config.fault(f"attention_bias {biased} with mlp_bias {not biased} is not supported (the same in both is)")
    rope = config.rope(sizes["max_sequence_length"], share=0.5)
    config.hold("rope_percent", (rope["rotary_percent"],), rope["rotary_percent"])
    return sizes | {
        "kv_channels": tables.head_size(config, sizes),
        "linear_bias": biased,
        "norm_epsilon": config.number("norm_eps", 1e-5),
        **rope,
    }


def _write(model: ModelConfig) -> dict[str, Any]:
    keys = tables.sizes_of(model) | tables.head_size_of(model) | tables.rope_keys(model, share=True)
    return keys | {
        "hidden_act": "relu2",
        "attention_bias": model.linear_bias,
        "mlp_bias": model.linear_bias,
        "norm_eps": model.norm_epsilon,
    }


NEMOTRON = Family(
    name="nemotron",
    causal="NemotronForCausalLM",
    scalar="NemotronForSequenceClassification",
    read=_read,
    write=_write,
    rules=(*tables.TRUNK, *tables.UNGATED, *tables.BIASES),
    fixed={
        "position": ("rope",),
        "normalization": ("LayerNorm",),
        "zero_centered_norm": (True,),
        "gated": (False,),
        "activation": ("squared_relu",),
        "qkv_bias": (False,),
        "qk_layernorm": (False,),
        "window": (None,),
        "experts": (None,),
    },
    loose=tables.ROPE_BUFFER,
)
