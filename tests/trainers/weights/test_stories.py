"""A real model, by the commands: adopted, speaking word for word as in transformers, exported and still the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from trainers.engine.inference.generator import open_generator
from trainers.engine.inference.token_sampling import Distribution

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
ROOT = Path(__file__).resolve().parents[3]


class Greedy(Distribution):
    """200 tokens, each the likeliest."""

    samples_per_prompt, max_new_tokens, stop = 1, 200, ()


def run(module: str, *arguments: Any) -> str:
    command = [sys.executable, "-W", "ignore", "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def greedy(folder: Path, ids: list[int], count: int) -> list[int]:
    """What transformers says in `count` tokens after `ids`."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    options = {"max_new_tokens": count, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    answer: list[int] = network.generate(torch.tensor([ids]), **options)[0].tolist()
    return answer[len(ids) :]


def test_a_real_llama_speaks_as_in_transformers(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = shared_data / "model-stories260k"
    if not folder.is_dir():
        pytest.skip("model-stories260k is not here")
    out = run("trainers.adopt", folder / "hf", tmp_path / "checkpoint", "--check", "on")
    assert "logits of 128 tokens equal transformers" in out
    manifest = json.loads((tmp_path / "checkpoint/_manifest.json").read_text())
    assert manifest["content"]["facts"]["check"] == {"logits": "equal", "tolerance": 1e-4}
    run("trainers.export", tmp_path / "checkpoint", tmp_path / "exported", "--check", "off")

    known: list[int] = json.loads((folder / "greedy.json").read_text())["greedy_token_ids_from_bos"]
    generator = open_generator(str(tmp_path / "checkpoint"))
    prompts = [[1], known[:40]]
    samples = generator.generate(pa.table({"prompt_ids": prompts}), Greedy(greedy=True), np.zeros(2, np.uint64))
    answers = samples["response_ids"].to_pylist()
    assert answers[0][: len(known) - 1] == known[1:]
    for place in (folder / "hf", tmp_path / "exported"):
        assert [greedy(place, ids, 200) for ids in prompts] == answers
