"""Suites against lm-evaluation-harness, on the same Hugging Face folder and rows: TruthfulQA MC1 and MC2, GSM8K.

It runs in a process of its own, from `build/lm-eval`, where `make test-slow` puts it (tests/fidelity/lm-eval.txt).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from schemas.dataset import Dataset
from tests.fidelity import harness, overfitted

ROOT = Path(__file__).resolve().parents[2]
LM_EVAL = ROOT / "build" / "lm-eval"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not (LM_EVAL / "lm_eval").is_dir(), reason="lm-eval is not in build/lm-eval: make test-slow puts it there"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """Rows, the model, what both made of it: `harness.json`, and ours below `quiver-data`."""
    place = tmp_path_factory.mktemp("harness")
    overfitted.rows(shared_data, place)
    overfitted.model(place)
    given = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(place / "hf")}
    quiver = Path(sys.executable).with_name("quiver")
    commands: list[tuple[list[str], dict[str, str]]] = [
        ([sys.executable, harness.__file__, str(LM_EVAL), str(place)], given),
        (
            [
                *(str(quiver), "Evaluate", "--model", "model", "--template", "text"),
                *("--suite", "truthfulqa,gsm8k", "--data", "truthful.jsonl,gsm8k.jsonl"),
                *("--max-new-tokens", str(harness.TOKENS)),
            ],
            {**os.environ},
        ),
    ]
    for command, environment in commands:
        done = subprocess.run(
            command, cwd=place, env=environment, capture_output=True, text=True, timeout=1500, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return place


@pytest.fixture(scope="module")
def theirs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    samples: dict[str, list[dict[str, Any]]] = json.loads((folder / "harness.json").read_text())
    return samples


def ours(folder: Path, stage: str) -> list[dict[str, Any]]:
    [place] = (folder / "quiver-data" / "evaluate").glob(f"{stage}-????????")
    rows: list[dict[str, Any]] = Dataset.open(str(place)).read().to_pylist()
    return rows


def by_question(folder: Path, suite: str, stage: str) -> dict[str, dict[str, Any]]:
    """Rows of a stage by the question that they are about."""
    asked = {row["prompt_id"]: row["messages"][-1]["content"] for row in ours(folder, f"{suite}/model/asked")}
    ends = {key: text.rpartition("Q: ")[2].removesuffix("\nA:") for key, text in asked.items()}
    if suite == "gsm8k":
        ends = {key: text.removeprefix("Question: ").removesuffix("\nAnswer:") for key, text in asked.items()}
    return {ends[row["prompt_id"]]: row for row in ours(folder, f"{suite}/model/{stage}")}


def between_a_fifth_and_four(right: list[float]) -> bool:
    return 0.2 <= sum(right) / len(right) <= 0.8


def test_choices_have_the_same_log_likelihoods_and_the_same_pick(folder: Path, theirs: dict[str, Any]) -> None:
    rows = by_question(folder, "truthfulqa", "scores")
    assert len(rows) == len(theirs["mc1"]) == len(theirs["mc2"]) == overfitted.ROWS
    for sample in theirs["mc2"]:
        row = rows[sample["doc"]["question"]]
        likely = [float(reply[0][0]) for reply in sample["resps"]]
        assert row["choice_logprobs"] == pytest.approx(likely, abs=1e-4)
        assert row["pick"] == likely.index(max(likely))
        assert row["right_mass"] == pytest.approx(sample["acc"], abs=1e-4)
    for sample in theirs["mc1"]:
        assert rows[sample["doc"]["question"]]["correct"] == sample["acc"]
    assert between_a_fifth_and_four([sample["acc"] for sample in theirs["mc1"]])


@pytest.mark.parametrize(("reading", "output"), [("strict-match", "correct"), ("flexible-extract", "correct_flexible")])
def test_answers_have_the_same_text_and_the_same_number(
    reading: str, output: str, folder: Path, theirs: dict[str, Any]
) -> None:
    rows = by_question(folder, "gsm8k", "answers.correct_flexible")
    samples = [sample for sample in theirs["gsm8k"] if sample["filter"] == reading]
    assert len(rows) == len(samples) == overfitted.ROWS
    for sample in samples:
        row = rows[sample["doc"]["question"]]
        assert row["response"] == sample["resps"][0][0]
        extracted = sample["filtered_resps"][0]
        assert row[f"{output}_read"] == (None if extracted == "[invalid]" else extracted)
        assert row[output] == sample["exact_match"]
    assert between_a_fifth_and_four([sample["exact_match"] for sample in samples])
