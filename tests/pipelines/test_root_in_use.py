"""A run holds the root of its data while it works, so that nothing is removed meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

import luigi
import pytest
from luigi.execution_summary import LuigiRunResult

import pipelines
from pipelines.runtime import command
from schemas.errors import ConflictError
from schemas.store.in_use import used_alone


def test_nobody_has_the_root_alone_while_a_run_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "question"}) + "\n")
    scheduled, refused = command._scheduled, []

    def watched(task: luigi.Task) -> LuigiRunResult:
        with pytest.raises(ConflictError, match="a run is at work"), used_alone("quiver-data"):
            pass
        refused.append(task)
        return scheduled(task)

    monkeypatch.setattr(command, "_scheduled", watched)
    pipelines.run("Import", files=["prompts.jsonl"], format="prompts")
    assert len(refused) == 1
    with used_alone("quiver-data"):
        pass
