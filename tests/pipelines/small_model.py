"""A model as other programs write it, without weights: enough to plan with."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers


def write(folder: Path, kind: str = "LlamaForCausalLM") -> None:
    """The small files of a Llama folder whose tokenizer has two words and a chat template."""
    folder.mkdir()
    config = {"model_type": "llama", "architectures": [kind], "hidden_size": 8, "vocab_size": 9, "num_labels": 1}
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "rms_norm_eps": 1e-6}
    (folder / "config.json").write_text(json.dumps({**config, **shape, "max_position_embeddings": 64}))
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    words = tokenizers.models.WordLevel({"a": 0, "q": 1}, unk_token="a")
    tokenizers.Tokenizer(words).save(str(folder / "tokenizer.json"))
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
