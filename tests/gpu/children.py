"""Child processes with a deadline, whose lines count as they come: what was measured before a kill stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Measured:
    """What a task gave: its `steps`, and why it gave no more (None where it came to its end)."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None


class Child:
    """`command`, with all that it starts, until it ends or `deadline` (of time.monotonic) comes."""

    def __init__(self, command: Sequence[str], deadline: float, *, cwd: Path, gpu: bool) -> None:
        self.command, self.deadline, self.cwd, self.gpu = command, deadline, cwd, gpu
        self.error: str | None = None

    def lines(self) -> Iterator[str]:
        """What it writes to stdout, line by line; then `error` says how it failed, if it did."""
        late = threading.Event()
        with tempfile.TemporaryFile() as err:
            child = subprocess.Popen(
                self.command,
                stdout=subprocess.PIPE,
                stderr=err,
                cwd=self.cwd,
                env=_environment(gpu=self.gpu),
                start_new_session=True,
            )

            def stop(because_late: bool) -> None:
                if because_late:
                    late.set()
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)

            watch = threading.Timer(max(0.0, self.deadline - time.monotonic()), stop, (True,))
            watch.start()
            try:
                assert child.stdout is not None
                for line in child.stdout:
                    yield line.decode("utf-8", "replace").rstrip("\n")
                child.wait()
            finally:
                watch.cancel()
                stop(False)
                child.wait()
                child.stdout.close()
            err.seek(0)
            last = err.read().decode("utf-8", "replace").strip().splitlines()[-5:]
        if child.returncode:
            why = "out of time" if late.is_set() else f"exit code {child.returncode}"
            self.error = f"{why}: {' / '.join(last) or 'no output'}"[:500]


def _environment(*, gpu: bool) -> dict[str, str]:
    """The caller's, with this checkout importable; without any GPU unless `gpu`."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    hidden = {} if gpu else {"CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1", **hidden}


def measure(tasks: Sequence[Mapping[str, Any]], deadline: float, *, gpu: bool) -> Iterator[Measured]:
    """What `tests.gpu.measure` makes of each of `tasks`, one after the other in one process, as they end.

    An error ends the process; the tasks after it get a new one, until `deadline` (of time.monotonic).
    """
    first = 0
    while first < len(tasks):
        if time.monotonic() >= deadline:
            yield Measured(error="not run: out of time")
            first += 1
            continue
        asked = json.dumps([dict(task) for task in tasks[first:]])
        device = "gpu" if gpu else "cpu"
        child = Child([sys.executable, "-m", "tests.gpu.measure", device, asked], deadline, cwd=ROOT, gpu=gpu)
        steps: list[dict[str, Any]] = []
        last: dict[str, Any] = {}
        for line in _ours(child.lines()):
            last = line
            if "step" in line:
                steps.append(line["step"])
            else:
                yield Measured(steps, line.get("error"))
                first, steps = first + 1, []
        if "error" not in last and first < len(tasks):
            yield Measured(steps, child.error or "ended without a result")
            first += 1


def _ours(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The JSON lines of `tests.gpu.measure` among whatever libraries print."""
    for line in lines:
        if line.startswith('{"measured": '):
            with suppress(ValueError):  # cut off in the middle
                yield json.loads(line)["measured"]
