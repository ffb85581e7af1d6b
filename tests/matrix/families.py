"""One tiny network of every family: its settings as config.json has them, read by the family itself.

A family that is added needs a line in `SETTINGS`. `gpt-2b` is no Hugging Face family: the shape of NeMo's GPT-2B, which
NeMo-Aligner's table names, GPT-2's size with the settings of Nemotron's GPTs (layernorm1p, rope over half of each head,
a gated MLP, no biases, an untied head).
"""

from __future__ import annotations

from typing import Any

from tests.trainers.weights import tiny
from trainers.architecture import ModelConfig

VOCABULARY = tiny.SIZES["vocab_size"]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
GPT2B = ModelConfig(
    num_layers=2,
    hidden_size=64,
    ffn_hidden_size=96,
    num_attention_heads=4,
    num_query_groups=4,
    vocab_size=VOCABULARY,
    max_sequence_length=128,
    rotary_percent=0.5,
    normalization="LayerNorm",
    zero_centered_norm=True,
)

SETTINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    # column of the page: title, family of the registry, config.json
    "gpt2": ("GPT-2", "gpt2", tiny.GPT2),
    "llama2": ("Llama 2", "llama", tiny.SIZES),
    "llama3": ("Llama 3", "llama", {**tiny.SIZES, "rope_theta": 500000.0, "rope_scaling": LLAMA3}),
    "mistral": ("Mistral", "mistral", {**tiny.SIZES, "sliding_window": 8}),
    "mixtral": ("Mixtral", "mixtral", {**tiny.SIZES, "num_local_experts": 4}),
    "nemotron4": ("Nemotron-4", "nemotron", tiny.SIZES),
    "qwen2": ("Qwen2", "qwen2", tiny.SIZES),
    "qwen3": ("Qwen3", "qwen3", {**tiny.SIZES, "head_dim": 32}),
}
TITLES = {"gpt-2b": "GPT-2B", **{name: title for name, (title, _, _) in SETTINGS.items()}}
LLAMA_3 = "llama3"


def shapes() -> dict[str, ModelConfig]:
    """The network of every column of the page."""
    from trainers.engine.weights.registry import named

    read = {
        column: named(name).model({"architectures": [named(name).causal], "model_type": name, **config}, column)
        for column, (_, name, config) in SETTINGS.items()
    }
    return {"gpt-2b": GPT2B, **read}
