"""Slurm's commands, for whoever submits scripts and waits for what becomes of them."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from schemas.errors import ConfigError, ServiceError, printable

OVER = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("REVOKED", "TIMEOUT"),
}
"""States of a job that has ended."""

_SILENCE_SECONDS = 600.0
_WHOLE = ""
"""What stands for the place of a job that is no array."""


def called(*command: str) -> subprocess.CompletedProcess[str]:
    """One of Slurm's commands; one that hangs has failed. `ConfigError` where there is none."""
    try:
        return subprocess.run(
            list(command), capture_output=True, text=True, timeout=120, check=False, env=dict(os.environ)
        )
    except FileNotFoundError:
        raise ConfigError(
            "no-slurm", f"{command[0]} cannot be found", expected="Slurm's commands on the PATH"
        ) from None
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(list(command), 1, "", f"{command[0]} did not answer for 120 s")


def submitted(script: Path, what: str, kept: str) -> str:
    """The number of the job that `sbatch` makes of `script`; `ServiceError` where it does not take it."""
    done = called("sbatch", "--parsable", str(script))
    number = done.stdout.strip().split(";")[0]
    if done.returncode or not re.fullmatch(r"\d+", number):
        raise ServiceError(
            "sbatch-failed",
            f"{what}: Slurm did not take the job",
            expected="the number of a job",
            found=printable(done.stderr.strip() or done.stdout.strip() or "nothing", 300),
            where=str(script),
            kept=kept,
            next=f"sbatch {script}",
        )
    return number


def state_of(number: str, what: str, poll_seconds: float) -> str:
    """What Slurm calls the state of job `number`; empty when it does not know the job any more."""
    return states_of(number, what, poll_seconds).get(_WHOLE, "")


def states_of(
    number: str, what: str, poll_seconds: float, *, array: bool = False, on_wait: Callable[[], None] = lambda: None
) -> Mapping[str, str]:
    """The states of job `number`, of an array by place; those it does not know any more are missing. While Slurm does
    not answer, `on_wait` is called before it is asked again; `ServiceError` where it says nothing for ten minutes.
    """
    place = ["--array", "--format=%K %T"] if array else ["--format=%T"]
    until = time.monotonic() + _SILENCE_SECONDS
    while True:
        done = called("squeue", "--noheader", "--states=all", *place, f"--jobs={number}")
        if done.returncode == 0:
            lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
            return {(line[0] if array else _WHOLE): line[-1] for line in reversed(lines)}
        if "Invalid job id" in done.stderr:
            return {}
        if time.monotonic() > until:
            raise ServiceError(
                "slurm-silent",
                f"{what}: Slurm does not say what became of job {number}",
                found=printable(done.stderr.strip(), 300),
                kept="the job, if it runs: the same command waits for it again",
                next="run the same command again",
            )
        on_wait()
        time.sleep(poll_seconds)


def option(value: object) -> str:
    """A value as sbatch reads it in its comment lines: quotes and backslashes, no other expansion."""
    text = str(value)
    if re.fullmatch(r"[A-Za-z0-9_.,:@/+=-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def pattern(path: Path) -> str:
    """A path as Slurm's own file name patterns read it."""
    if "\\" in str(path):
        raise ConfigError("bad-path", f"Slurm cannot write to {printable(path)}: it holds a backslash")
    return str(path).replace("%", "%%")


def script_of(lines: Sequence[str]) -> str:
    """The text of a script; `ConfigError` for a line with a control character."""
    if faults := [line for line in lines if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", line)]:
        raise ConfigError(
            "bad-path", f"a control character in a Slurm script: {printable(faults[0])}", kept="nothing was started"
        )
    return "\n".join(lines)


def option_faults(lines: Sequence[str]) -> list[str]:
    """What is wrong with options that somebody wants to hand to sbatch."""
    faults = [f"line {line!r} does not start with --" for line in lines if not line.startswith("--")]
    return faults + [f"{line!r} holds a control character" for line in lines if re.search(r"[\x00-\x1f\x7f]", line)]
