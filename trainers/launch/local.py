"""Ranks on this machine: one process, or several that `spawn` starts.

They meet through a file in a folder that only this user can open, and what they open for each other is bound to the
loopback interface: nothing of a run on one machine listens on a network.
"""

from __future__ import annotations

import re
from pathlib import Path

from schemas.process import interpreter

PROGRAM = "trainers.run"
"""The module that every rank runs."""

MEETING = "QUIVER_MEETING"
"""Variable that names the folder through which ranks on one machine meet."""


def command(config: Path, ranks: int, save_seconds: float, program: str = PROGRAM) -> list[str]:
    """What starts `ranks` processes of `program` on `config`; asked to stop they have `save_seconds`."""
    if ranks == 1:
        return interpreter.module(program, str(config))
    spawn = (str(ranks), program, str(config), f"--save-seconds={save_seconds:g}")
    return interpreter.module("trainers.launch.spawn", *spawn)


def variables(ranks: int, logs: Path) -> dict[str, str]:
    """What the ranks get besides: where several of them write."""
    return {} if ranks == 1 else {"QUIVER_LOGS": str(logs)}


def exits(text: str) -> tuple[dict[int, int], tuple[int, str]]:
    """What a launcher's log tells: the exit codes (negative: the signal) that `spawn` saw, by process id, and the rank
    that srun names first with what it says of it (-1: none).
    """
    seen = re.finditer(r"^rank \d+ \(pid (\d+)\) ended with (-?\d+)$", text, re.MULTILINE)
    first = re.search(r"srun: error: \S+: tasks? (\d+)[^:\n]*: ([^\n]*)", text)
    named = (int(first.group(1)), first.group(2)) if first else (-1, "")
    return {int(m.group(1)): int(m.group(2)) for m in seen}, named
