"""Prompts with examples against those of lm-evaluation-harness, letter by letter: GSM8K and MMLU."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datakit.apply import apply
from pipelines.commands.evaluation import Evaluate
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from schemas.dataset import Dataset
from tests.fidelity import few_shot_prompts
from tests.fidelity.test_lm_eval import LM_EVAL
from tests.pipelines import small_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (LM_EVAL / "lm_eval").is_dir(), reason="lm-eval is not in build/lm-eval: make test-slow puts it there"
    ),
]
ROWS = 20


def rows(shared: Path, folder: Path) -> None:
    """Questions and, in a file of their own, examples: GSM8K's, and the same with four numbers on offer."""
    with gzip.open(shared / "gsm8k-train" / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        problems = [json.loads(next(lines)) for _ in range(2 * ROWS)]
    offered = []
    for at, problem in enumerate(problems):
        choices = [f"{problem['answer'].rpartition('#### ')[2]}{'0' * place}" for place in range(4)]
        right = at % 4
        choices[0], choices[right] = choices[right], choices[0]
        offered.append({"question": problem["question"], "choices": choices, "answer": right, "subject": "sums"})
    for name, whole in (("gsm8k", problems), ("mcqa", offered)):
        for part, rows in (("", whole[:ROWS]), ("-dev", whole[ROWS:])):
            (folder / f"{name}{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def made(node: Any, folder: Path) -> Dataset:
    """What a node of data is, once it and those before it are made."""
    place = folder / f"{node.label}-{node.task_key[:8]}"
    inputs = [made(one, folder) for one in node.inputs]
    return Dataset.open(str(place)) if place.exists() else apply(node.op, inputs, str(place), seed=node.seed)


@pytest.mark.parametrize("suite", few_shot_prompts.TASKS)
def test_prompts_are_the_same(suite: str, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows(shared_data, tmp_path)
    small_model.write(tmp_path / "model")
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, few_shot_prompts.__file__, str(LM_EVAL), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=offline, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    theirs = json.loads((tmp_path / "prompts.json").read_text())[suite]
    asked = Evaluate(
        model="model", template="text", suite=suite, data=f"{suite}.jsonl", examples=f"{suite}-dev.jsonl",
        few_shot=few_shot_prompts.SHOTS, few_shot_choice="first", max_new_tokens=8,
    )  # fmt: skip
    [figures] = asked.build(Plan("quiver-data"))
    [node] = {n for n in figures.ancestors() if isinstance(n, Table) and n.op.name == "template.few_shot"}
    ours = [turns[-1]["content"] for turns in made(node, tmp_path / "made").read()["messages"].to_pylist()]
    assert ours == theirs and len(ours) == ROWS
