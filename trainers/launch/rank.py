"""What a process of a run does before it trains: learn its place in the world, say that it is there, keep on saying so.

The world comes from the variables that torchrun and `spawn` set, or from Slurm's where srun started the process. A
launcher of ours names a folder for presence files (QUIVER_RANKS) and, for several ranks on one machine, one for log
files (QUIVER_LOGS). Without these a run does nothing of the kind.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path

from schemas.errors import ConfigError, QuiverError, StorageError, printable
from schemas.store.owner import Owner
from schemas.store.ownfiles import append_file, own_folder
from trainers.launch.child import leave_with_parent
from trainers.launch.local import MEETING
from trainers.launch.rank_status import RankStatus

_PORTS = 20000
_OWN: list[_Heartbeat] = []


class _Heartbeat:
    """Writes what this process last did, from a thread, so that telling it costs the training loop nothing."""

    def __init__(self, folder: Path, rank: int, world: int) -> None:
        self.folder, self.interval = folder, max(0.5, world / 100)
        self.status = RankStatus(rank=rank, owner=Owner.mine())
        self._lock, self._written = threading.Lock(), -1
        self.write()
        threading.Thread(target=self._keep, name="presence", daemon=True).start()

    def write(self) -> None:
        """Write it now; a disk that fails is the business of what saves, not of this."""
        with self._lock:
            try:
                self.status.write(self.folder)
                self._written = self.status.beats
            except StorageError as fault:
                print(f"warning: {printable(fault.what, 300)}", file=sys.stderr)

    def _keep(self) -> None:
        while self.status.code is None:
            time.sleep(self.interval)
            if self.status.beats != self._written and self.status.code is None:
                self.write()


def enter() -> None:
    """Before anything else in a process of a run. Raises `ConfigError` where Slurm does not tell the whole world."""
    logs, ranks = os.environ.get("QUIVER_LOGS"), os.environ.get("QUIVER_RANKS")
    world_from_slurm(os.environ)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if logs:
        leave_with_parent()
        path = log_of(Path(logs), rank)
        own_folder(path.parent)
        with append_file(path) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    if ranks and not _OWN:
        faulthandler.register(signal.SIGUSR2, all_threads=True)
        _OWN.append(_Heartbeat(Path(ranks), rank, world))


def one_of_many() -> bool:
    """Whether somebody else answers for this process's run: a launcher of ours, or whoever started its other ranks."""
    return "QUIVER_RANKS" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1


def number() -> int:
    """Which of the processes of its run this one is, from 0; 0 where it is the only one."""
    return int(os.environ.get("RANK", "0"))


def heartbeat(at: str = "") -> None:
    """This process gets on: it is `at` something new, or (empty) further with what it was at."""
    if _OWN:
        own = _OWN[0]
        own.status = replace(own.status, beats=own.status.beats + 1, at=at or own.status.at)


def leave(code: int, error: QuiverError | None = None) -> None:
    """The last word of this process: its exit code and, where there is one, its error."""
    if _OWN:
        own = _OWN.pop()
        fields = None if error is None else {**json.loads(error.as_json()), "code": code}
        own.status = replace(own.status, code=code, error=fields, left=time.time())
        own.write()


def collective_seconds() -> float:
    """Seconds after which a collective operation that hangs is an error."""
    return float(os.environ.get("QUIVER_COLLECTIVE_SECONDS", "1800"))


def log_of(folder: Path, rank: int) -> Path:
    """The log file of a rank."""
    return folder / f"rank-{rank:05d}.log"


def world_from_slurm(environment: MutableMapping[str, str]) -> None:
    """Set torchrun's variables from those of srun, where torchrun did not and srun started more than one process."""
    if "RANK" in environment or "SLURM_STEP_ID" not in environment or "SLURM_PROCID" not in environment:
        return
    world = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS", "1")
    if world == "1":
        return
    environment["RANK"], environment["WORLD_SIZE"] = environment["SLURM_PROCID"], world
    environment["LOCAL_RANK"] = environment.get("SLURM_LOCALID", "0")
    if "MASTER_ADDR" not in environment and MEETING not in environment:
        environment["MASTER_ADDR"] = _first_host(environment)
    environment.setdefault("MASTER_PORT", str(port_of(int(environment.get("SLURM_JOB_ID", "0")))))


def port_of(job: int) -> int:
    """The port on which the ranks of a Slurm job meet: below the range from which systems deal out ports."""
    return _PORTS + job % 10000


def _first_host(environment: MutableMapping[str, str]) -> str:
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    try:
        done = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, timeout=60, check=False
        )
        hosts, message = done.stdout.split(), done.stderr
    except (OSError, subprocess.SubprocessError) as fault:
        hosts, message = [], str(fault)
    if not hosts:
        raise ConfigError(
            "no-master",
            "the first host of this Slurm job is unknown",
            expected="MASTER_ADDR, or scontrol on the PATH",
            found=printable(message or "no host", 200),
            kept="nothing was started",
            next="export MASTER_ADDR before srun",
        )
    return hosts[0]
