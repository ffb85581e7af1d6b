"""Lets the tests here import the toy graph by the name that the `luigi` command uses; a place with a small model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.graph.backend import model_at
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.setups.own import own
from pipelines.setups.preferences import preferences
from tests.pipelines import small_model

FOLDER = str(Path(__file__).parent)
if FOLDER not in sys.path:
    sys.path.insert(0, FOLDER)


_SETUPS = {module: module.task_setup for module in (own, preferences)}


@pytest.fixture
def judge(plan: Plan, tmp_path: Path) -> Node:
    """A reward model from outside, in the plan of the module."""
    small_model.write(tmp_path / "judge", "LlamaForSequenceClassification")
    return model_at(plan, str(tmp_path / "judge"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of prompts, one of samples, a small model and a small reward model from outside."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "q"}) + "\n")
    rows = [{"prompt": "q", "response": "a"}, {"prompt": "a", "response": "q"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small_model.write(tmp_path / "model")
    small_model.write(tmp_path / "judge", "LlamaForSequenceClassification")
    return tmp_path


@pytest.fixture
def with_settings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Plans the setup of a module (`own`, `preferences`) with these settings of its section."""

    def settled(module: Any, **settings: Any) -> None:
        monkeypatch.setattr(
            module, "task_setup", lambda section, *more: _SETUPS[module](section.clone(**settings), *more)
        )

    return settled
