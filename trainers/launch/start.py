"""One start of a run, wherever it is to run: checked before anything is started, then a `Watch` or a Slurm `Job`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from schemas.canonical import plain
from schemas.errors import ConfigError
from schemas.process import environment
from schemas.store.ownfiles import own_folder, replace_file
from trainers.launch import local
from trainers.launch.jobs import Job
from trainers.launch.local import PROGRAM
from trainers.launch.rank import log_of
from trainers.launch.settings import Launch
from trainers.launch.slurm import Script
from trainers.launch.watch import RunFolder, Watch
from trainers.parallel import Parallel


def check(parallel: Parallel, ranks: int, launch: Launch, what: str) -> None:
    """Raise `ConfigError` for `ranks` that nobody can place, and for a Slurm that is not here."""
    nodes = launch.slurm.nodes if launch.launcher == "slurm" else 1
    for size, reason in ((parallel.min_world_size, str(parallel)), (nodes, "the nodes")):
        if ranks < 1 or ranks % size:
            raise ConfigError(
                "parallel-size",
                f"{what}: {ranks} ranks do not fill {reason}",
                expected=f"a multiple of {size}",
                found=str(ranks),
                kept="nothing was started",
            )
    missing = [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]
    if launch.launcher == "slurm" and missing:
        raise ConfigError(
            "no-slurm",
            f"{', '.join(missing)} cannot be found",
            expected="Slurm's commands on the PATH",
            kept="nothing was started",
            next="start this on a login node, or with launcher = local",
        )


def prepare(
    config: Path,
    folder: Path,
    ranks: int,
    launch: Launch,
    *,
    what: str = "training",
    command: Sequence[str] = (),
    program: str = PROGRAM,
    tell: Callable[[str], None] | None = None,
) -> Watch | Job:
    """The start of the run in `config`, whose work lies in `folder`; its `run` starts it. `command` starts the ranks
    where neither one process, nor `spawn`, nor Slurm is to do it.
    """
    folder = folder.absolute()
    files = RunFolder(folder)
    more: dict[str, Any] = {} if tell is None else {"tell": tell}
    if command:
        one = launch.launcher == "slurm" and launch.slurm.nodes == 1
        log = files.launcher_log
        return Watch(command, dict(os.environ), ranks, files, launch, log, what, one_host=one, **more)
    if launch.launcher == "slurm":
        script = Script(config=config, folder=folder, ranks=ranks, launch=launch, name=what, program=program)
        return Job(script, launch, what, **more)
    threads = environment.threads_of(ranks, launch.threads)
    given = environment.built(os.environ, threads, launch.environment)
    given |= local.variables(ranks, files.logs)
    log = files.launcher_log if ranks > 1 else log_of(files.logs, 0)
    started = local.command(config, ranks, launch.save_seconds, program)
    return Watch(started, given, ranks, files, launch, log, what, **more)


def write_outcome(folder: Path, ended: Mapping[str, Any], job: str) -> None:
    """Leave in `folder` how a start ended (`code`, the `error`'s fields, log lines `said`), for whoever waits
    elsewhere.
    """
    path = folder / "outcome.json"
    own_folder(folder)
    replace_file(path, json.dumps({"job": job, **plain(ended)}) + "\n")
