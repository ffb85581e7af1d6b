"""An online run that is killed at random moments, again and again: `python -m tests.pipelines.online.kills CONFIG KILLS
SEED`.

Every attempt is a fork of this process, which has imported the engine and started nothing. SIGKILL comes from inside,
some moment after the loop began: while it draws, labels, writes, trains or saves. A run that is done before it was
killed as often as was asked is begun anew in another folder. Printed is a line of JSON for each run: its name, and of
every attempt what was drawn and whether it was killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import trainers.engine.training.loop
import trainers.run  # noqa: F401 - imported before the forks
from pipelines.online import config
from pipelines.online.__main__ import execute
from pipelines.online.config import OnlineRun
from tests.pipelines.online import runs
from trainers import engine

SECONDS = 1.0
"""The latest moment of a kill, behind the begin of the loop: two or three steps."""


def placed(given: OnlineRun, name: str) -> OnlineRun:
    """The same run in another folder."""
    out = str(Path(given.run.paths.out).with_name(name))
    return replace(given, run=replace(given.run, paths=replace(given.run.paths, out=out)))


def attempt(given: OnlineRun, folder: Path, seconds: float) -> bool:
    """One process, killed after so many seconds of its loop unless it is done by then; whether it was."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert killed or os.WEXITSTATUS(status) == 0, f"the run failed: {status}"
        return killed
    code = 1
    try:
        fit = engine.fit

        def timed(*arguments: Any, **named: Any) -> Any:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return fit(*arguments, **named)

        engine.fit = timed
        with runs.watched(folder):
            execute(given)
        code = 0
    finally:
        os._exit(code)


def main() -> None:
    file, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    given, chance, left, number = config.read(str(file)), random.Random(seed), kills, 0
    while left > 0:
        one, attempts = placed(given, f"cut {number}"), list[dict[str, Any]]()
        while not attempts or attempts[-1]["killed"]:
            seconds = chance.uniform(0, SECONDS) if left > 0 else 600.0
            killed = attempt(one, file.parent, seconds)
            left -= killed
            attempts.append({"drawn": runs.draws(file.parent), "killed": killed})
        print(json.dumps({"name": f"cut {number}", "attempts": attempts}), flush=True)
        number += 1


if __name__ == "__main__":
    main()
