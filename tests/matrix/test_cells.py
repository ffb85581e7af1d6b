"""Every method on every family: three steps, and where `cells.everywhere` says so cut by tensor and interrupted.

Left out of `make test`; `make test-matrix` runs it, and makes docs/matrix.md of what it leaves in build/matrix.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.matrix import methods
from tests.matrix.cells import everywhere
from tests.matrix.families import TITLES
from tests.matrix.page import RESULTS, faults

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(3600)]
CELLS = [(method, family) for method in methods.methods() for family in TITLES]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "rows.json").write_text(json.dumps(methods.write(folder / "rows")))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.matrix.cells", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    text = (folder / "cells.json").read_text()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)
    measured: dict[str, dict[str, Any]] = json.loads(text)
    return measured


@pytest.mark.parametrize(("method", "family"), CELLS)
def test_it_learns_cut_and_interrupted(cells: dict[str, dict[str, Any]], method: str, family: str) -> None:
    cell = cells[method][family]
    assert {"tensor", "resumed"} <= cell.keys() or not everywhere(method, family)
    assert not list(faults(cell))
