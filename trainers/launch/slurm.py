"""The sbatch script of a run: what is asked of Slurm, the environment, and one srun under our watch.

Nothing is interpolated unquoted. Values of secrets never stand in the script: sbatch is given the names of the
variables to hand on. Before the time limit Slurm sends SIGTERM to every rank; the run saves and ends with 75, and the
script puts the job back into the queue.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from schemas.process import environment, interpreter, slurm
from schemas.run_layout import LOGS, SLURM_LOG
from trainers.launch.local import PROGRAM
from trainers.launch.settings import Launch

STOP = "stop"
"""File in the run's folder whose presence keeps a stopped job from queueing again."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """The script for `ranks` processes of `program` on `config`; `name` is the job's."""

    config: Path
    folder: Path
    ranks: int
    launch: Launch
    name: str
    program: str = PROGRAM

    @property
    def path(self) -> Path:
        """The file that `sbatch` is given: `slurm.sh` in the run's folder."""
        return self.folder / "slurm.sh"

    @property
    def settings(self) -> Path:
        """Where the watch inside the job finds how to launch."""
        return self.folder / "launch.json"

    def text(self) -> str:
        """The batch script, as sbatch takes it."""
        lines = ["#!/bin/bash", *self._options(), "", *self._environment(), "", *self._run(), ""]
        return slurm.script_of(lines)

    def _options(self) -> list[str]:
        asked = self.launch.slurm
        options = {
            "job-name": self.name,
            "partition": asked.partition,
            "account": asked.account,
            "qos": asked.qos,
            "nodes": asked.nodes,
            "ntasks-per-node": self.ranks // asked.nodes,
            "gpus-per-node": asked.gpus_per_node,
            "cpus-per-task": asked.cpus_per_rank,
            "time": asked.time,
            "signal": f"TERM@{asked.signal_seconds}" if asked.signal_seconds else "",
            "output": slurm.pattern(self.folder / LOGS / SLURM_LOG),
            "open-mode": "append",
            "export": ",".join(environment.names(os.environ, self.launch.environment)),
        }
        lines = [f"#SBATCH --{name}={slurm.option(value)}" for name, value in options.items() if value]
        lines.append("#SBATCH --requeue" if asked.requeue else "#SBATCH --no-requeue")
        return lines + [f"#SBATCH {line}" for line in asked.lines]

    def _environment(self) -> list[str]:
        cores = self.launch.threads or self.launch.slurm.cpus_per_rank or 1
        ours = {name: shlex.quote(value) for name, value in sorted(environment.ours(cores).items())}
        return [
            "set -euo pipefail",
            "trap : TERM  # the ranks get the signal themselves, and this shell waits for them",
            *(f"export {name}={value}" for name, value in ours.items()),
            'mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
            'export MASTER_ADDR="${hosts[0]}"',
            'export MASTER_PORT="$((20000 + SLURM_JOB_ID % 10000))"',
        ]

    def _run(self) -> list[str]:
        asked = self.launch.slurm
        watch = interpreter.module("trainers.launch", str(self.config), "--ranks", str(self.ranks))
        watch += ["--name", self.name, "--settings", str(self.settings)]
        srun = ["srun", "--kill-on-bad-exit=1", "--export=ALL", "--input=none", "--open-mode=append"]
        srun += [f"--cpus-per-task={asked.cpus_per_rank}"] if asked.cpus_per_rank else []
        srun += [f"--container-image={asked.image}"] if asked.image else []
        srun += [f"--container-mounts={','.join(asked.mounts)}"] if asked.mounts else []
        srun.append(f"--output={slurm.pattern(self.folder / 'logs')}/rank-%5t.log")
        stop = shlex.quote(str(self.folder / STOP))
        again = f'if [ "$code" -eq 75 ] && [ ! -e {stop} ]; then scontrol requeue "$SLURM_JOB_ID" || true; fi'
        return [
            "code=0",
            f"{shlex.join(watch)} \\",
            f"  -- {shlex.join(srun)} \\",
            f"  {shlex.join(interpreter.module(self.program, str(self.config)))} || code=$?",
            *([again] if asked.requeue else []),
            'exit "$code"',
        ]
