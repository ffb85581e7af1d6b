"""Runs a function in a forked child, so that it may be killed at any point; many runs a second."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from schemas.errors import QuiverError


@dataclass(frozen=True)
class Ended:
    """How a child ended: exit code (-9 when killed), the fault's slug and first line, and the function's
    plain result.
    """

    code: int
    slug: str = ""
    line: str = ""
    result: Any = None


def start(work: Callable[[], Any]) -> tuple[int, int]:
    """Start `work` in a child; (pid, descriptor that `wait` reads)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    os.close(reading)
    outcome: dict[str, Any] = {"code": 0}
    try:
        outcome["result"] = work()
    except QuiverError as error:
        outcome = {"code": error.code, "slug": error.slug, "line": error.render().splitlines()[0]}
    except BaseException:
        outcome = {"code": 1, "slug": "traceback", "line": traceback.format_exc()}
    try:
        with os.fdopen(writing, "w") as pipe:
            json.dump(outcome, pipe)
    finally:
        os._exit(outcome["code"])


def wait(child: tuple[int, int]) -> Ended:
    """How the child ended."""
    pid, reading = child
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return Ended(**{**(json.loads(text) if text else {}), "code": code})


def forked(work: Callable[[], Any]) -> Ended:
    """Run `work` in a child to its end."""
    return wait(start(work))
