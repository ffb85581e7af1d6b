"""A program from outside and how it ends, where the kernel keeps it from everything: `worker` says how.

It sees Python's standard library and an empty folder. There is no network, no file and no process of anybody's, and its
CPU time, memory, processes, files and time are bounded; what it prints goes nowhere.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ConfigError, printable
from schemas.process import interpreter

_WORKER = Path(__file__).with_name("worker.py")
_LONGEST = 4096
"""Bytes of a verdict; a program that writes more is ended."""
_DISK = 16 << 20
_START_SECONDS = 60.0
"""What setting up may take, on a machine with much else to do."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one program may use: `seconds` of CPU time for each of its `processes` (threads are some, too), twice that
    by the clock, and `memory` in MiB for each.
    """

    seconds: float = 10.0
    memory: int = 512
    processes: int = 4

    def of_kernel(self) -> dict[str, int]:
        """By the name that the kernel has for each."""
        return {
            "RLIMIT_AS": self.memory << 20,
            "RLIMIT_CPU": max(1, round(self.seconds)),
            "RLIMIT_NPROC": self.processes + 2,  # the two that watch it are its user's as well
            "RLIMIT_FSIZE": _DISK,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
        }


@dataclass(frozen=True)
class Ending:
    """How a program ended: whether all of it ran without a fault, and otherwise why not."""

    passed: bool
    why: str


def run(parts: Sequence[str], limits: Limits) -> Ending:
    """Run `parts`, whole programs that share their names, one behind the other; `ConfigError` without a sandbox."""
    token = secrets.token_hex(16)
    limited = {"parent": os.getpid(), "seconds": 2 * limits.seconds, "disk": _DISK, "limits": limits.of_kernel()}
    request = {"parts": list(parts), "token": token, "python": _python(), **limited}
    words, late = _answer(request, 2 * limits.seconds + _START_SECONDS)
    if words.startswith("no-sandbox "):
        raise _missing(words.removeprefix("no-sandbox "))
    verdict, _, ended = words.partition("\nended ")
    if verdict.startswith(f"passed {token}"):
        return Ending(True, "")
    if verdict.startswith("fault "):
        return Ending(False, printable(verdict.removeprefix("fault "), 200))
    if late or ended in ("late", "-24"):
        return Ending(False, "out of time")
    return Ending(False, f"ended with {printable(ended, 20)}" if ended else "ended for what it wrote")


def require() -> None:
    """`ConfigError` that says what is missing, where this machine cannot confine a program."""
    why = _barred()
    if why:
        raise _missing(why)


@functools.cache
def _barred() -> str:
    if sys.platform != "linux":
        return f"{sys.platform} has no namespaces"
    try:
        ending = run(("1 + 1",), Limits())
    except ConfigError as fault:
        return fault.found
    return "" if ending.passed else f"Python does not start in it: {ending.why}"


def _missing(why: str) -> ConfigError:
    return ConfigError(
        "no-sandbox",
        "programs from outside are run where the kernel can confine them, and here it cannot",
        expected="Linux 5.14 or newer where a user may make namespaces; in a container such rights as "
        "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined gives",
        found=printable(why, 200),
        kept="nothing was run",
        next="unshare --user --map-root-user --net true",
    )


def _python() -> dict[str, object]:
    """The interpreter behind this environment, and where its standard library lies."""
    libraries = os.path.join(sys.base_prefix, "lib"), os.path.join(sys.base_exec_prefix, sys.platlibdir)
    python = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
    return {"python": python, "libraries": list(map(os.path.realpath, libraries))}


def _answer(request: dict[str, object], seconds: float) -> tuple[str, bool]:
    """What the child and all that it started wrote until the last of them was gone, and whether they were ended."""
    child = subprocess.Popen(
        interpreter.script(str(_WORKER), options=("-I", "-S")),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}, cwd="/",
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None, "the child was started without a pipe"
    with child, selectors.DefaultSelector() as ready:
        try:
            child.stdin.write(json.dumps(request).encode())
            child.stdin.close()
        except BrokenPipeError:
            pass  # its answer, or that there is none, says why
        ready.register(child.stdout, selectors.EVENT_READ)
        until, answer, late = time.monotonic() + seconds, b"", False
        while len(answer) <= _LONGEST and not late:
            late = not ready.select(max(0.0, until - time.monotonic()))
            more = b"" if late else os.read(child.stdout.fileno(), _LONGEST)
            if not more:
                break
            answer += more
        child.kill()
        while os.read(child.stdout.fileno(), 1 << 16):
            pass  # the pipe ends when the last process that could write to it is gone
    return answer.decode("utf-8", "replace"), late
