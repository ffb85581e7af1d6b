"""Qwen 2 and 2.5: Llama's layers with a bias on query, key and value."""

from __future__ import annotations

from typing import Any

from trainers.architecture import ModelConfig
from trainers.engine.weights import tables
from trainers.engine.weights.family import Family
from trainers.engine.weights.hfconfig import Config


def _read(config: Config) -> dict[str, Any]:
    sizes = tables.sizes(config)
    config.hold("hidden_act", ("silu",), "silu")
    return sizes | {
        "kv_channels": tables.head_size(config, sizes),
        "norm_epsilon": config.number("rms_norm_eps", 1e-6),
        **tables.windows(config, sizes),
        **config.rope(sizes["max_sequence_length"]),
    }


def _write(model: ModelConfig) -> dict[str, Any]:
    keys = tables.sizes_of(model) | tables.windows_of(model) | tables.rope_keys(model)
    return keys | {"rms_norm_eps": model.norm_epsilon}


def _limits(model: ModelConfig) -> list[str]:
    size = model.kv_channels
    if size is not None and size * model.num_attention_heads != model.hidden_size:
        return [f"kv_channels {size} (it has hidden_size over heads)"]
    return []


QWEN2 = Family(
    name="qwen2",
    causal="Qwen2ForCausalLM",
    scalar="Qwen2ForSequenceClassification",
    read=_read,
    write=_write,
    rules=(*tables.TRUNK, *tables.GATED),
    fixed={
        **tables.LLAMA_LIKE,
        "qkv_bias": (True,),
        "linear_bias": (False,),
        "qk_layernorm": (False,),
        "experts": (None,),
    },
    limits=_limits,
    loose=tables.ROPE_BUFFER,
)
