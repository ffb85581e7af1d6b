"""Worker processes of data stages: what the fork server hands them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.pipelines.commands import ROOT

_ASKED = """
import os
from multiprocessing import get_context
from pipelines.backends.checkpoint import Checkpoint
from pipelines.runtime.processes import preload

if __name__ == "__main__":
    preload(Checkpoint.preload)
    with get_context("forkserver").Pool(1) as pool:
        print(pool.apply(os.getenv, ("PYTORCH_NVML_BASED_CUDA_CHECK",)))
"""


def test_importing_the_engine_in_the_fork_server_asks_for_a_gpu_without_starting_cuda(tmp_path: Path) -> None:
    """A worker forked from a process that has counted CUDA devices through the driver can never use one."""
    program = tmp_path / "asked.py"
    program.write_text(_ASKED, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTORCH")}
    environment["PYTHONPATH"] = str(ROOT)
    asked = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert asked.stdout.strip() == "1"
