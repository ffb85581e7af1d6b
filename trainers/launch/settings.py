"""How a run is launched: one frozen `Launch`, none of which changes what is learnt."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from schemas.errors import ConfigError
from schemas.process.slurm import option_faults

_TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """What is asked of Slurm; what is empty or 0 is left to the cluster's defaults.

    `time` is Slurm's own (minutes, H:MM:SS, D-HH:MM:SS). `signal_seconds` before it ends, every rank gets SIGTERM: the
    run saves, and with `requeue` the job queues again and goes on. `lines` are more sbatch options, each from its
    `--` on. `image` is a container image for srun (pyxis), `mounts` its mounts, `FROM:TO`.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    nodes: int = 1
    gpus_per_node: int = 0
    cpus_per_rank: int = 0
    time: str = ""
    signal_seconds: int = 120
    requeue: bool = True
    lines: tuple[str, ...] = ()
    image: str = ""
    mounts: tuple[str, ...] = ()
    poll_seconds: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Where ranks run, how many (0: the fewest that the run's parallel sizes fill), and how long they may be silent.

    A rank that gets nowhere for `hang_seconds` (before its first step: `start_seconds`) ends the run; so does, as a
    second line, a collective operation that takes `collective_seconds`. A run that is asked to stop has `save_seconds`
    to save. `threads` are those of a rank (0: its share of the cores). `environment` names more variables to hand on;
    a name may end in *.
    """

    launcher: Literal["local", "slurm"] = "local"
    ranks: int = 0
    hang_seconds: float = 1200.0
    start_seconds: float = 1800.0
    collective_seconds: float = 1800.0
    save_seconds: float = 120.0
    threads: int = 0
    environment: tuple[str, ...] = ()
    slurm: Slurm = Slurm()

    def __post_init__(self) -> None:
        faults = [*_launch_faults(self), *_slurm_faults(self.slurm)]
        if faults:
            raise ConfigError("bad-setting", "; ".join(faults), where="how to launch", kept="nothing was started")


def _launch_faults(launch: Launch) -> list[str]:
    positive = ("hang_seconds", "start_seconds", "collective_seconds", "save_seconds")
    faults = [f"{name} {getattr(launch, name)} is not above 0" for name in positive if getattr(launch, name) <= 0]
    for name in ("ranks", "threads"):
        if getattr(launch, name) < 0:
            faults.append(f"{name} {getattr(launch, name)} is below 0")
    names = [name for name in launch.environment if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*\*?", name)]
    return faults + [f"{name!r} is not the name of a variable" for name in names]


def _slurm_faults(slurm: Slurm) -> list[str]:
    faults = [] if slurm.nodes >= 1 else [f"nodes {slurm.nodes} is below 1"]
    if slurm.poll_seconds <= 0:
        faults.append(f"poll_seconds {slurm.poll_seconds} is not above 0")
    for name in ("gpus_per_node", "cpus_per_rank", "signal_seconds"):
        if getattr(slurm, name) < 0:
            faults.append(f"{name} {getattr(slurm, name)} is below 0")
    if slurm.time and not _TIME.fullmatch(slurm.time):
        faults.append(f"time {slurm.time!r} is not minutes, H:MM:SS or D-HH:MM:SS")
    faults += option_faults(slurm.lines)
    texts = (slurm.partition, slurm.account, slurm.qos, slurm.image, *slurm.mounts)
    return faults + [f"{text!r} holds a control character" for text in texts if re.search(r"[\x00-\x1f\x7f]", text)]
