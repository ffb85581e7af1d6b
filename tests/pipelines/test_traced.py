"""What became of 200 random rows of a run of three iterations, and what fed its checkpoints, as the files say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment

from pipelines.recipes import RestIteration
from tests.datakit.trace.answers import agree, fed_agrees
from tests.pipelines.test_every_recipe import furnish, tiny


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_rows_of_three_iterations_are_traced_as_their_files_say(tmp_path: Path) -> None:
    furnish(tmp_path)
    settings = json.dumps({**tiny(RestIteration), "iteration": 3})
    (tmp_path / "settings.json").write_text(settings)
    run = "pipelines.run('RestIteration', **json.load(open('settings.json')))"
    program = f"import json, pipelines\nif __name__ == '__main__':\n    {run}\n"
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    root = tmp_path / "quiver-data"
    assert fed_agrees(root) == 8
    counts = agree(root, 200)
    assert counts.keys() >= {"created", "kept", "dropped", "left out", "trained", "not reached"}
