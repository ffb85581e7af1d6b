"""Every notebook runs from top to bottom on small data, and is stored without outputs."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.tail import late
from tests.warm import command

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
QUICK = {"curate_preferences", "templates_and_masks"}
"""Those that need no run of a recipe first."""
FORKS = """
from tests.warm.server import PROGRAMS, stand_in_for
stand_in_for(PROGRAMS, lambda: {!r})
"""
"""What a kernel begins with: what trains is a fork, as it is for a command."""
FEWER = {"templates_and_masks": ('"max_steps": 30', '"max_steps": 6')}
"""Steps of trainings that stand in a notebook themselves."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    stale = [
        number
        for number, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and (cell.outputs or cell.execution_count is not None)
    ]
    assert not stale, f"{path.name}: cells {stale} carry outputs or execution counts"


def test_each_begins_with_five_lines_at_most_and_trains_in_its_last_cell() -> None:
    assert {path.stem for path in NOTEBOOKS} > QUICK
    for path in NOTEBOOKS:
        code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        assert sum(bool(line) for line in code[0].splitlines()) <= 5, f"{path.name}: set-up"
        assert re.search(r"trainer\.learn|run\(\s*\"(Sft|RewardModel)\"", code[-1]), f"{path.name}: nothing is trained"
        assert "browse(" in "\n".join(code) and "plt.show()" in "\n".join(code), path.name


@pytest.mark.parametrize(
    "path", [path if path.stem in QUICK else late(path) for path in NOTEBOOKS], ids=lambda path: path.stem
)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "forks.py").write_text(FORKS.format(command.address()))
    folder = tmp_path / "notebooks"
    shutil.copytree(path.parent, folder)
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells if path.stem in FEWER else ():
        cell.source = cell.source.replace(*FEWER[path.stem])
    client = NotebookClient(notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    red = [output.text for output in outputs if output.get("name") == "stderr"]
    assert not red, "progress stands among faults"
