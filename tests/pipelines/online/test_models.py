"""The models that an online run asks besides its policy, opened by the process that trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.graph.backend import model_at
from pipelines.graph.external import ExternalModel
from pipelines.graph.plan import Plan
from pipelines.online.models import opened
from schemas.errors import IntegrityError
from tests.pipelines.online import runs


def test_a_reward_that_was_edited_since_the_run_was_planned_rewards_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy would stand under the key of the older text."""
    monkeypatch.chdir(tmp_path)
    module, prompts = tmp_path / "step_rewards.py", runs.prompts(tmp_path)
    module.write_text("def score(response): return [1.0] * len(response)\n")
    node = model_at(Plan(str(tmp_path)), "step_rewards:score", "scorer")
    assert isinstance(node, ExternalModel)
    given = runs.online_run(tmp_path, "edited")
    run = replace(given, models={"scorer": "step_rewards:score"}, planned_models={"scorer": node.identity})
    assert set(opened(run, run.step.answering, prompts)) == {"scorer"}
    module.write_text("def score(response): return [2.0] * len(response)\n")
    with pytest.raises(IntegrityError, match="changed since this run was planned"):
        opened(run, run.step.answering, prompts)
