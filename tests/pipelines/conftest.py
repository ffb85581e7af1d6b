"""Lets the tests here import the toy graph by the name that the `luigi` command uses; a place with a small model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tokenizers

FOLDER = str(Path(__file__).parent)
if FOLDER not in sys.path:
    sys.path.insert(0, FOLDER)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of prompts, one of samples and a small model as other programs write it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "q"}) + "\n")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "q", "response": "a"}) + "\n")
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "vocab_size": 9}
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "rms_norm_eps": 1e-6}
    (folder / "config.json").write_text(json.dumps({**config, **shape, "max_position_embeddings": 64}))
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    words = tokenizers.models.WordLevel({"a": 0, "q": 1}, unk_token="a")
    tokenizers.Tokenizer(words).save(str(folder / "tokenizer.json"))
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return tmp_path
