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

    samples_per_prompt, max_new_tokens = 1, 200
    stop: tuple[str, ...] = ()


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


@pytest.fixture(scope="module")
def checkpoint(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    folder = shared_data / "model-stories260k"
    if not folder.is_dir():
        pytest.skip("model-stories260k is not here")
    place = tmp_path_factory.mktemp("stories") / "checkpoint"
    out = run("trainers.adopt", folder / "hf", place, "--check", "on")
    assert "logits of 128 tokens equal transformers" in out
    return place


def test_a_real_llama_speaks_as_in_transformers(checkpoint: Path, shared_data: Path, tmp_path: Path) -> None:
    manifest = json.loads((checkpoint / "_manifest.json").read_text())
    assert manifest["content"]["facts"]["check"] == {"logits": "equal", "tolerance": 1e-4}
    run("trainers.export", checkpoint, tmp_path / "exported", "--check", "off")

    folder = shared_data / "model-stories260k"
    known: list[int] = json.loads((folder / "greedy.json").read_text())["greedy_token_ids_from_bos"]
    generator = open_generator(str(checkpoint))
    prompts = [[1], known[:40]]
    samples = generator.generate(pa.table({"prompt_ids": prompts}), Greedy(greedy=True), np.zeros(2, np.uint64))
    answers = samples["response_ids"].to_pylist()
    assert answers[0][: len(known) - 1] == known[1:]
    for place in (folder / "hf", tmp_path / "exported"):
        assert [greedy(place, ids, 200) for ids in prompts] == answers


def test_a_stop_text_with_a_blank_ends_an_answer_that_begins_with_it(checkpoint: Path) -> None:
    """Against a naive scan: the answer ends with the first token after which prompt and answer, read together, have
    the text behind the prompt.
    """
    generator = open_generator(str(checkpoint))
    decode = generator.tokenizer.decode

    def answers(prompts: list[list[int]], stop: tuple[str, ...]) -> list[dict[str, Any]]:
        settings = Greedy(greedy=True)
        settings.__dict__.update(stop=stop, max_new_tokens=24)
        rows = generator.generate(pa.table({"prompt_ids": prompts}), settings, np.zeros(len(prompts), np.uint64))
        return rows.to_pylist()  # type: ignore[no-any-return]

    texts = ("Once upon a", "The dog was", "Tom and", "One day, the little girl", "She said")
    prompts = [[1, *generator.tokenizer.encode(text, add_special_tokens=False).ids] for text in texts]
    free = answers(prompts, ())
    beginnings = {decode([*prompts[0], row["response_ids"][0]])[len(texts[0]) :] for row in free}
    beginnings |= {text.strip() for text in beginnings} | {" t", " the", " the ", "the", " "}
    assert " time" in beginnings
    for stop in sorted(beginnings):
        for ids, row, whole in zip(prompts, answers(prompts, (stop,)), free, strict=True):
            drawn, prompt = whole["response_ids"], decode(ids)
            read = [decode([*ids, *drawn[:count]])[len(prompt) :] for count in range(len(drawn) + 1)]
            count = next((count for count, text in enumerate(read) if stop in text), len(drawn))
            assert row["response_ids"] == drawn[:count], (stop, prompt)
            assert row["response"] == read[count].partition(stop)[0]
            assert row["finish_reason"] == ("stop" if stop in read[count] else "length")
