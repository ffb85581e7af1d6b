"""`quiver explain`: what a command would run and why, without running or writing anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pipelines
from pipelines.commands import explaining
from quiver import console
from schemas.errors import ConfigError

PROMPTS = "".join(json.dumps({"prompt": f"question {number}"}) + "\n" for number in range(20))
IMPORT = ("Import", "--files", "prompts.jsonl", "--format", "prompts")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["quiver"])
    (tmp_path / "prompts.jsonl").write_text(PROMPTS)
    return tmp_path


def explained(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert explaining.main([*words, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_a_graph_is_explained_before_behind_and_beside_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """First everything runs; then nothing; with another seed the stage whose seed it is, and why."""
    before = explained(capsys, *IMPORT)
    [stage] = before["stages"]
    assert (stage["why"], before["reused"]) == ("first time", [])
    assert sorted(one.name for one in folder.iterdir()) == ["prompts.jsonl"]
    pipelines.run("Import", files=["prompts.jsonl"], format="prompts")
    behind = explained(capsys, *IMPORT)
    assert behind["stages"] == [] and [one["rows"] for one in behind["reused"]] == [20]
    assert explaining.main(IMPORT) == 0
    assert "nothing would run" in capsys.readouterr().out
    there = {one: one.stat().st_mtime_ns for one in folder.rglob("*")}
    place = behind["reused"][0]["place"]
    cut = ("Filter", "--op", "where", "--data", place, "--params", '{"predicate": "length(prompt_id) > 0"}')
    filtered = explained(capsys, *cut)
    assert [one["operation"] for one in filtered["stages"]] == ["filter.where"]
    assert explaining.main(cut) == 0
    text = capsys.readouterr().out
    assert "1 stage would run" in text and max(map(len, text.splitlines())) <= 80
    assert {one: one.stat().st_mtime_ns for one in folder.rglob("*")} == there


def test_it_is_a_process_whose_errors_and_exit_code_are_those_of_the_command(folder: Path) -> None:
    program = [sys.executable, "-c", "from quiver.console import main; main()", "explain"]
    done = subprocess.run([*program, "Imprt", "--files", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "did you mean Import?" in " ".join(done.stderr.split()) and not done.stdout
    answer = subprocess.run([*program, *IMPORT, "--root", "elsewhere"], capture_output=True, text=True, check=True)
    assert "1 stage would run" in answer.stdout and "below elsewhere" in answer.stdout
    assert not os.path.exists("elsewhere")


def test_without_a_task_it_says_what_it_takes(folder: Path) -> None:
    for words in ([], ["--json"]):
        with pytest.raises(ConfigError, match="asked for with other words"):
            console.run(["explain", *words])
