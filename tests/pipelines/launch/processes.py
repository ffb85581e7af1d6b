"""Who still runs: processes whose command line names a folder."""

from __future__ import annotations

import time
from pathlib import Path

import psutil


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
