"""Ranks on this machine: one process, or torchrun for several.

torchrun finds a free port by itself (its store binds port 0 and the ranks are told which it got), so two runs that
start at the same time never meet. Only the loopback address is used.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PROGRAM = "trainers.run"
"""The module that every rank runs."""


def command(config: Path, ranks: int, scratch: Path, program: str = PROGRAM) -> list[str]:
    """What starts `ranks` processes of `program` on `config`; torchrun's own files go to `scratch`."""
    run = ["-m", program, str(config)]
    if ranks == 1:
        return [sys.executable, *run]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={ranks}"]
    return [sys.executable, *torchrun, f"--log-dir={scratch}", *run]


def variables(ranks: int, logs: Path, save_seconds: float) -> dict[str, str]:
    """What the ranks are told besides: where several of them write, and how long torchrun lets them save."""
    if ranks == 1:
        return {}
    return {"QUIVER_LOGS": str(logs), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(max(1, int(save_seconds)))}


def exits(text: str) -> tuple[dict[int, int], tuple[int, str]]:
    """What a launcher's log tells: torchrun's exit codes (negative: the signal) by process id, and the rank that srun
    names first with what it says of it (-1: none).
    """
    found = re.finditer(r"exitcode\s*: (-?\d+)\)?[^\n]*?\(pid: (\d+)\)", text)
    first = re.search(r"srun: error: \S+: tasks? (\d+)[^:\n]*: ([^\n]*)", text)
    named = (int(first.group(1)), first.group(2)) if first else (-1, "")
    return {int(m.group(2)): int(m.group(1)) for m in found}, named
