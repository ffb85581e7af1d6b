"""Shapes of networks that a GPU machine is asked about: small ones of every kind for agreement, real ones for speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LLAMA = {"num_layers": 4, "hidden_size": 128, "ffn_hidden_size": 344, "num_attention_heads": 8, "num_query_groups": 4}
_SMALL = {**_LLAMA, "vocab_size": 512, "max_sequence_length": 256}
NETWORKS: Mapping[str, dict[str, Any]] = {
    "llama": _SMALL,
    "window": {**_SMALL, "window": 32},
    "gpt2": {
        **_SMALL,
        "num_query_groups": 8,
        "position": "learned",
        "normalization": "LayerNorm",
        "gated": False,
        "activation": "gelu",
        "linear_bias": True,
        "qkv_bias": True,
        "tie_embeddings": True,
    },
    "qwen3": {**_SMALL, "qk_layernorm": True, "kv_channels": 32},
    "mixtral": {**_SMALL, "experts": {"number": 4, "per_token": 2}},
}
SHAPES: Mapping[str, dict[str, Any]] = {
    "1b": {  # Llama 3.2 1B
        "num_layers": 16,
        "hidden_size": 2048,
        "ffn_hidden_size": 8192,
        "num_attention_heads": 32,
        "num_query_groups": 8,
        "vocab_size": 128256,
        "max_sequence_length": 4096,
        "rope_base": 500000.0,
        "tie_embeddings": True,
    },
    "7b": {  # Llama 2 7B
        "num_layers": 32,
        "hidden_size": 4096,
        "ffn_hidden_size": 11008,
        "num_attention_heads": 32,
        "num_query_groups": 32,
        "vocab_size": 32000,
        "max_sequence_length": 4096,
    },
    "toy": {**_SMALL, "num_layers": 2, "max_sequence_length": 64},
}
