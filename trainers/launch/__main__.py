"""`python -m trainers.launch CONFIG.json --ranks N`: a training run of several ranks, without Luigi.

Exit codes are those of `trainers.run`, whichever rank failed; 14 for a rank that died or is stuck. Behind `--` stands
the command that starts the ranks, where neither one process nor `spawn` does: the srun of a Slurm job. Beside the
run's figures stands `outcome.json` when it is over.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from schemas.errors import QuiverError
from schemas.process import program
from schemas.process.terminal import error_text
from schemas.settings import parse
from trainers import config
from trainers.launch import start
from trainers.launch.settings import Launch


def main(arguments: list[str] | None = None) -> int:
    """Launch the run of a configuration file; the exit code; `QuiverError` for what cannot be started."""
    given = sys.argv[1:] if arguments is None else arguments
    place = given.index("--") if "--" in given else len(given)
    given, command = given[:place], given[place + 1 :]
    reader = argparse.ArgumentParser(prog="python -m trainers.launch", description=(__doc__ or "").split("\n\n")[0])
    reader.add_argument("config", help="the run (trainers.config.Run), a JSON file")
    reader.add_argument("--ranks", type=int, default=0, help="processes in all")
    reader.add_argument("--settings", help="how to launch (trainers.launch.settings.Launch), a JSON file")
    reader.add_argument("--name", default="training", help="what messages call the run")
    options = reader.parse_args(given)
    run = config.read(options.config)
    launch = read(options.settings)
    ranks = options.ranks or launch.ranks or run.execution.parallel.min_world_size
    start.check(run.execution.parallel, ranks, launch, options.name)
    lines: list[str] = []
    more: dict[str, Any] = {"what": options.name, "command": command, "tell": lines.append}
    started = start.prepare(Path(options.config).resolve(), run.paths.folder, ranks, launch, **more)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: started.stop())
    code, error_json = 0, "{}"
    try:
        started.run()
    except QuiverError as error:
        print(*lines, error_text(error), sep="\n", file=sys.stderr)
        code, error_json = error.code, error.as_json()
    ended = {"code": code, "error": json.loads(error_json), "said": lines}
    start.write_outcome(run.paths.folder, ended, os.environ.get("SLURM_JOB_ID", ""))
    return code


def read(path: str | None) -> Launch:
    """How to launch, as the JSON file `path` says; without one, the defaults."""
    return Launch() if path is None else parse(Launch, config.read_json(path), where=path)


if __name__ == "__main__":
    program.run(main)
