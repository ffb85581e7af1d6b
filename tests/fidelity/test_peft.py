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

from tests.trainers.weights import tiny
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
base, out, ids, settings = sys.argv[1:]
settings = json.loads(settings)
scalar = settings["task_type"] == "SEQ_CLS"
kind = transformers.AutoModelForSequenceClassification if scalar else transformers.AutoModelForCausalLM
options = {"num_labels": 2} if scalar else {}
network = kind.from_pretrained(base, dtype=torch.float32, **options)
model = peft.get_peft_model(network, peft.LoraConfig(**settings)).eval()
torch.manual_seed(1)
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
model.save_pretrained(out)
model = model.from_pretrained(kind.from_pretrained(base, dtype=torch.float32, **options), out).eval()
tokens = torch.load(ids)
inner = model.base_model.model
with torch.no_grad():
    output = inner.score(inner.base_model(tokens).last_hidden_state) if scalar else model(input_ids=tokens).logits
torch.save(output, ids + ".out")
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
}


@pytest.mark.parametrize("case", CASES)
def test_an_imported_peft_folder_computes_what_peft_computes(tmp_path: Path, case: str) -> None:
    family, task, rest = CASES[case]
    base = tiny.write(family, tmp_path / "base")
    ids = torch.randint(0, 83, (2, 40), generator=torch.Generator().manual_seed(2))
    torch.save(ids, tmp_path / "ids")
    settings = f'{{"task_type": "{task}", "r": 4, "lora_alpha": 6, {rest}}}'
    command = [sys.executable, "-W", "ignore", "-c", WRITE, str(base), str(tmp_path / "lora"), str(tmp_path / "ids")]
    environment = {**os.environ, "PYTHONPATH": str(PEFT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, settings], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    import_hf(str(tmp_path / "lora"), str(tmp_path / "made"), check="on", say=lambda line: None)
    model = checkpoint.open_checkpoint(str(tmp_path / "made")).model
    ours = comparison.ours(str(tmp_path / "made"), model, ids, parallel.start(Parallel()))
    theirs = torch.load(tmp_path / "ids.out")
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    plain = comparison.theirs(str(base), ids, "lm") if task == "CAUSAL_LM" else None
    assert plain is None or (plain - theirs).abs().max() > 0.1
