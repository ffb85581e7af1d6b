"""Hugging Face folders with random weights, made by transformers itself, and what config.json may say of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tests.trainers.networks import words

SIZES = {
    "vocab_size": 83,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
GPT2 = {"vocab_size": 83, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256}
ABSENT = object()
"""In place of a value: the key is taken out of config.json."""


def write(
    folder: Path,
    kind: str,
    settings: Mapping[str, Any],
    *,
    head: str = "ForCausalLM",
    keys: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    **saving: Any,
) -> Path:
    """The network `kind` with `settings`; `keys` of config.json are set or taken out once it is written."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(5)
    config = getattr(transformers, f"{kind}Config")(**{**(GPT2 if kind == "GPT2" else SIZES), **settings})
    architecture = "GPT2LMHeadModel" if (kind, head) == ("GPT2", "ForCausalLM") else kind + head
    network = getattr(transformers, architecture)(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape) * (0.2 if parameter.ndim > 1 else 0.5) + (parameter.ndim == 1))
    network.to(dtype).save_pretrained(folder, **saving)
    written = {**json.loads((folder / "config.json").read_text()), **(keys or {})}
    written = {name: value for name, value in written.items() if value is not ABSENT}
    (folder / "config.json").write_text(json.dumps(written))
    (folder / "tokenizer.json").write_text(words(SIZES["vocab_size"]).to_str())
    (folder / "tokenizer_config.json").write_text('{"eos_token": "w1"}')
    return folder
