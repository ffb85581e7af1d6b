"""Every family as random tiny Hugging Face folders. A new family needs one line here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.trainers.networks import words

SIZES = {
    "vocab_size": 83,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
WINDOWS = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
GPT2 = {"vocab_size": 83, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}

FOLDERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", SIZES),
    "llama3": ("LlamaConfig", "LlamaForCausalLM", {**SIZES, "rope_parameters": LLAMA3, "head_dim": 32}),
    "llama-tied-biased": (
        "LlamaConfig",
        "LlamaForCausalLM",
        {**SIZES, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "llama-reward": ("LlamaConfig", "LlamaForSequenceClassification", {**SIZES, "num_labels": 1}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**SIZES, "sliding_window": 8}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {**SIZES, "num_local_experts": 4}),
    "nemotron": ("NemotronConfig", "NemotronForCausalLM", SIZES),
    "nemotron-reward": ("NemotronConfig", "NemotronForSequenceClassification", {**SIZES, "num_labels": 3}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", GPT2),
    "gpt2-reward": ("GPT2Config", "GPT2ForSequenceClassification", {**GPT2, "num_labels": 1}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {**SIZES, "tie_word_embeddings": True}),
    "qwen2-window": ("Qwen2Config", "Qwen2ForCausalLM", {**SIZES, **WINDOWS}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**SIZES, "head_dim": 32}),
}
EXACT = tuple(name for name in FOLDERS if not name.startswith(("mixtral", "gpt2")))
"""Those whose logits are transformers' own to the last bit (sizes are whole vectors of any CPU: no scalar tails)."""


def write(name: str, folder: Path, dtype: torch.dtype = torch.float32, **saving: Any) -> Path:
    """The folder `name`, weights random everywhere (norms and biases too), with a tokenizer of words."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    config, architecture, settings = FOLDERS[name]
    torch.manual_seed(3)
    network = getattr(transformers, architecture)(getattr(transformers, config)(**settings, pad_token_id=0)).to(dtype)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape) * (0.2 if parameter.ndim > 1 else 0.5) + (parameter.ndim == 1))
    network.save_pretrained(folder, **saving)
    (folder / "tokenizer.json").write_text(words(83).to_str())
    (folder / "tokenizer_config.json").write_text('{"eos_token": "w1", "chat_template": "{{ messages }}"}')
    return folder
