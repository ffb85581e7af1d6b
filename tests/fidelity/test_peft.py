"""Folders that PEFT itself wrote: what it computes from them, and what the imported checkpoint computes.

PEFT runs in a process of its own, from `build/trl`, where `make test-slow` puts it (tests/fidelity/trl.txt).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.trainers.weights import peft_folders, tiny
from trainers.engine.checkpoint import checkpoint
from trainers.engine.megatron import parallel
from trainers.engine.weights import comparison
from trainers.engine.weights.import_hf import import_hf
from trainers.parallel import Parallel

ROOT = Path(__file__).resolve().parents[2]
PEFT = ROOT / "build" / "trl"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (PEFT / "peft").is_dir(), reason="PEFT is not in build/trl: make test-slow puts it there"),
]

WRITE = """
import json, sys, torch, transformers, peft
base, out, ids, rows, settings = sys.argv[1:]
settings = json.loads(settings)
scalar = settings["task_type"] == "SEQ_CLS"
kind = transformers.AutoModelForSequenceClassification if scalar else transformers.AutoModelForCausalLM
options = {"num_labels": 2} if scalar else {}
def opened():
    network = kind.from_pretrained(base, dtype=torch.float32, **options)
    if int(rows):
        network.resize_token_embeddings(int(rows), mean_resizing=False)
    return network
torch.manual_seed(1)
model = peft.get_peft_model(opened(), peft.LoraConfig(**settings)).eval()
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
model.save_pretrained(out)
model = model.from_pretrained(opened(), out).eval()
tokens = torch.load(ids)
def computed(inner):
    with torch.no_grad():
        return inner.score(inner.base_model(tokens).last_hidden_state) if scalar else inner(input_ids=tokens).logits
torch.save(computed(model.base_model.model), ids + ".out")
if not getattr(model.base_model.model.config, "tie_word_embeddings", False):
    torch.save(computed(model.merge_and_unload()), ids + ".merged")
"""
LINEARS = '"target_modules": ["q_proj", "v_proj", "down_proj"]'
CASES = {
    "plain": ("llama", "CAUSAL_LM", LINEARS),
    "all-linear": ("llama3", "CAUSAL_LM", '"target_modules": "all-linear"'),
    "rank-stabilised": ("qwen3", "CAUSAL_LM", f'{LINEARS}, "use_rslora": true'),
    "patterns": (
        *("mistral", "CAUSAL_LM"),
        LINEARS + ', "rank_pattern": {"v_proj": 3}, "alpha_pattern": {"layers.1.self_attn.q_proj": 7}',
    ),
    "embedding": ("llama", "CAUSAL_LM", f'{LINEARS}, "modules_to_save": ["embed_tokens", "lm_head"]'),
    "embedding of a tied model": ("qwen2", "CAUSAL_LM", f'{LINEARS}, "modules_to_save": ["embed_tokens"]'),
    "head of a tied model": ("qwen2", "CAUSAL_LM", f'{LINEARS}, "modules_to_save": ["lm_head"]'),
    "both of a tied model": ("qwen2", "CAUSAL_LM", f'{LINEARS}, "modules_to_save": ["embed_tokens", "lm_head"]'),
    "conv1d": ("gpt2", "CAUSAL_LM", '"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": true'),
    "classifier": ("llama", "SEQ_CLS", LINEARS),
    "adapted head": ("llama", "CAUSAL_LM", '"target_modules": ["q_proj", "lm_head"]'),
    "adapted embedding": ("llama", "CAUSAL_LM", '"target_modules": ["q_proj", "embed_tokens"]'),
    "adapted head of a tied model": ("qwen2", "CAUSAL_LM", '"target_modules": ["q_proj", "lm_head"]'),
    "adapted embedding of a tied model": ("qwen2", "CAUSAL_LM", '"target_modules": ["q_proj", "embed_tokens"]'),
    "both adapted in a tied model": ("qwen2", "CAUSAL_LM", '"target_modules": ["lm_head", "embed_tokens"]'),
    "tied adapters": (
        *("qwen2", "CAUSAL_LM"),
        '"target_modules": ["lm_head", "embed_tokens", "q_proj"], "ensure_weight_tying": true',
    ),
    "tied copies": (
        "qwen2",
        "CAUSAL_LM",
        f'{LINEARS}, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": true',
    ),
    "dora": ("llama", "CAUSAL_LM", f'{LINEARS}, "use_dora": true, "use_rslora": true'),
    "dora everywhere": (
        *("qwen2", "CAUSAL_LM"),
        '"target_modules": ["q_proj", "up_proj", "embed_tokens", "lm_head"], "use_dora": true',
    ),
    "dora on conv1d": ("gpt2", "CAUSAL_LM", '"target_modules": ["c_attn", "c_proj", "lm_head"], "use_dora": true'),
    "embeddings of gpt2": ("gpt2", "CAUSAL_LM", '"target_modules": ["c_fc", "wte", "wpe"], "fan_in_fan_out": true'),
    "tokens": ("llama", "CAUSAL_LM", f'{LINEARS}, "trainable_token_indices": [1, 80]'),
    "tokens of a tied model": ("qwen2", "CAUSAL_LM", f'{LINEARS}, "trainable_token_indices": [1, 80]'),
    "tokens of the head": ("qwen2", "CAUSAL_LM", f'{LINEARS}, "trainable_token_indices": {{"lm_head": [3, 7]}}'),
    "tokens of both": (
        *("qwen2", "CAUSAL_LM"),
        LINEARS + ', "trainable_token_indices": {"embed_tokens": [1, 80], "lm_head": [3]}',
    ),
    "biases of what is adapted": ("qwen2", "CAUSAL_LM", f'{LINEARS}, "bias": "lora_only"'),
    "all biases": ("gpt2", "CAUSAL_LM", '"target_modules": ["c_attn"], "bias": "all"'),
    "expressions": (
        *("llama", "CAUSAL_LM"),
        (
            r'"target_modules": ".*layers\\.(0|1)\\..*(q|up)_proj", "rank_pattern": {"layers\\.1\\..*": 2}, '
            r'"alpha_pattern": {".*\\.0\\.mlp\\.\\w+": 9}'
        ),
    ),
    "some layers": ("llama", "CAUSAL_LM", f'{LINEARS}, "layers_to_transform": [1]'),
}
RESIZED = {
    "more tokens": ("llama", "CAUSAL_LM", LINEARS),
    "more tokens of a tied model": ("qwen2", "CAUSAL_LM", LINEARS),
    "more tokens, trained": ("llama", "CAUSAL_LM", f'{LINEARS}, "modules_to_save": ["embed_tokens", "lm_head"]'),
    "more tokens of a tied model, trained": ("qwen2", "CAUSAL_LM", f'{LINEARS}, "modules_to_save": ["embed_tokens"]'),
    "more tokens, adapted": ("llama", "CAUSAL_LM", '"target_modules": ["q_proj", "embed_tokens", "lm_head"]'),
    "more tokens, only those": ("llama", "CAUSAL_LM", f'{LINEARS}, "trainable_token_indices": [83, 84]'),
    "more tokens of a tied model, only those": (
        *("qwen2", "CAUSAL_LM"),
        f'{LINEARS}, "trainable_token_indices": [83, 84]',
    ),
}


@pytest.mark.parametrize("case", [*CASES, *RESIZED])
def test_an_imported_peft_folder_computes_what_peft_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    family, task, rest = (CASES | RESIZED)[case]
    base, rows = tiny.write(family, tmp_path / "base"), 90 if case in RESIZED else 0
    ids = torch.randint(0, rows or 83, (2, 40), generator=torch.Generator().manual_seed(2))
    torch.save(ids, tmp_path / "ids")
    settings = f'{{"task_type": "{task}", "r": 4, "lora_alpha": 6, {rest}}}'
    places = map(str, (base, tmp_path / "lora", tmp_path / "ids", rows))
    environment = {**os.environ, "PYTHONPATH": str(PEFT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", WRITE, *places, settings]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    monkeypatch.setattr(sys, "path", [*sys.path, str(PEFT)])
    lines: list[str] = []
    import_hf(str(tmp_path / "lora"), str(tmp_path / "made"), check="on", say=lines.append)
    assert "equal PEFT" in lines[-1]
    model = checkpoint.open_checkpoint(str(tmp_path / "made")).model
    ours = comparison.ours(str(tmp_path / "made"), model, ids, parallel.start(Parallel()))
    theirs = torch.load(tmp_path / "ids.out")
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, theirs.abs().max())
    if (tmp_path / "ids.merged").exists():
        assert (ours - torch.load(tmp_path / "ids.merged")).abs().max() <= 1e-5 * max(1.0, theirs.abs().max())
    plain = comparison.theirs(str(base), ids, "lm") if task == "CAUSAL_LM" and not rows else None
    assert plain is None or (plain - theirs).abs().max() > 0.1


FIRST = """
import sys, torch
from trainers.adapter_folder import read_adapters
from trainers.engine.weights import comparison
from trainers.engine.weights.adapted_folder import AdaptedFolder
adapters = read_adapters(sys.argv[1])
network = comparison.opened(adapters.base, "lm", adapters, num_hidden_layers=int(sys.argv[2]))
folder, given = AdaptedFolder(adapters), dict(network.named_parameters())
assert len(network.model.layers) == 1, network
for name in folder.theirs:
    if name in given:
        torch.testing.assert_close(given[name], folder.read(name).float(), rtol=0, atol=0.01)
        print(name)
"""


def test_first_layers_get_their_own_adapters_and_are_rounded_as_the_model_is(tmp_path: Path) -> None:
    base = tiny.write("qwen2", tmp_path / "base", torch.bfloat16)
    shapes = {f"model.layers.{layer}.self_attn.q_proj": (64, 64) for layer in range(2)}
    settings = {"trainable_token_indices": [4], "bias": "lora_only", "use_dora": True}
    peft_folders.write(tmp_path / "lora", str(base), shapes, **settings)
    tensors = {f"{module}.lora_magnitude_vector": torch.arange(64.0) / 64 + 1 for module in shapes}
    tensors |= {f"{module}.base_layer.bias": torch.arange(64.0) for module in shapes}
    tensors |= {"model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(1, 64)}
    peft_folders.also(tmp_path / "lora", tensors)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{PEFT}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", FIRST, str(tmp_path / "lora"), "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    first = "model.layers.0.self_attn.q_proj"
    assert set(done.stdout.split()) == {f"{first}.weight", f"{first}.bias", "model.embed_tokens.weight"}
