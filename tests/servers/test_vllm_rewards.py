"""Reward models that a real vLLM serves, against the same weights in our own engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from schemas.dataset import Dataset
from tests.pipelines.commands import luigi
from tests.servers.test_vllm_answers import CLOSE
from tests.servers.vllm_server import VllmServer

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def judge(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Llama with a head of one number."""
    from transformers import LlamaForSequenceClassification

    place = tmp_path_factory.mktemp("judge") / "model"
    shutil.copytree(folder, place)
    torch.manual_seed(12)
    network = LlamaForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    torch.nn.init.normal_(network.score.weight, std=0.3)
    network.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def served(judge: Path) -> Iterator[VllmServer]:
    with VllmServer(judge, judge.parent / "vllm.log", settings=("--runner", "pooling")) as server:
        yield server


@pytest.mark.parametrize("api", ["classify", "pooling"])
def test_rewards_are_those_of_our_own_engine(api: str, judge: Path, served: VllmServer, tmp_path: Path) -> None:
    """The number of the head itself: vLLM's default is a sigmoid of it."""
    rows = [{"prompt": f"Question {number}?", "response": "yes " * (number % 7 + 1)} for number in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = []
    for model in (f"{served.reference},reward={api}", str(judge)):
        command = ("Label", "--op", "reward", "--model", model, "--data", "rows.jsonl")
        done = luigi(tmp_path, *command, module="pipelines")
        assert done.returncode == 0, done.stderr
        labelled = Dataset.open(done.stdout.split()[-1]).read().sort_by("sample_id")
        made.append(np.array(labelled["reward"].to_pylist(), np.float64))
    assert len(made[0]) == 24 and np.abs(made[0]).max() > 1.0
    assert np.abs(made[0] - made[1]).max() <= CLOSE, (made[0] - made[1]).tolist()
