"""The fork server of a run, and the commands that a run says to go on with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.report import suggestions
from pipelines.runtime import processes

PRELOADED = f"""
import multiprocessing, sys
from {processes.__name__} import preload

def shows(there):
    there.send(("colorsys" in sys.modules, "torch" in sys.modules))

if __name__ == "__main__":
    preload(["colorsys"])
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("forkserver").Process(target=shows, args=(there,))
    process.start()
    print(*here.recv())
    process.join()
"""


def test_workers_have_what_was_imported_for_them_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "preloaded.py").write_text(PRELOADED)
    done = subprocess.run([sys.executable, "preloaded.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("True False\n", 0), done.stderr


def test_places_are_named_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert suggestions.near(str(tmp_path / "data/rows")) == "data/rows"
    assert suggestions.near("s3://bucket/rows") == "s3://bucket/rows"
