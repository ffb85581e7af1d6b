"""Who still runs: processes whose command line names a folder; and a Slurm of one host for them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

SLURM = Path(__file__).parent / "slurm" / "slurm.py"


def fake_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch, *, on_path: bool = True) -> None:
    """Slurm's commands in `folder`/bin, of a cluster whose jobs lie in `folder`/cluster."""
    home, bin_ = folder / "cluster", folder / "bin"
    home.mkdir()
    bin_.mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(home))
    for name in ("sbatch", "srun", "squeue", "scancel", "scontrol"):
        path = bin_ / name
        path.write_text(f'#!/bin/bash\nexec {sys.executable} {SLURM} {name} "$@"\n')
        path.chmod(0o755)
    if on_path:
        monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")


def alive(folder: Path, patience: float = 5.0) -> list[str]:
    """Command lines of the processes that name `folder`, after those that are just leaving had time to."""
    until = time.monotonic() + patience
    while (pids := _named(folder)) and time.monotonic() < until:
        time.sleep(0.1)
    return pids


def _named(folder: Path) -> list[str]:
    pids = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(folder) in word for word in words):
            pids.append(" ".join(words))
    return pids
