"""From what a failed task tells the scheduler to the error that a user reads; a bug of ours leaves its traceback in a
file.
"""

from __future__ import annotations

import json
import os
import shlex
import time
import traceback
from collections.abc import Iterable
from typing import Any

import luigi

from pipelines.cli import invocation
from pipelines.runtime.logfile import logs_folder
from schemas import errors
from schemas.errors import QuiverError, WorkerError, printable
from schemas.process import program
from schemas.store.ownfiles import own_folder, replace_file


def failure_text(error: BaseException) -> str:
    """What a failed task tells the scheduler: the fields of a `QuiverError`, or a traceback."""
    known = error if isinstance(error, QuiverError) else program.disk_fault(error)
    if known is not None:
        return known.as_json()
    return "".join(traceback.format_exception(error))


def error_of(task: luigi.Task, failure: str) -> QuiverError:
    """The error behind a failed task, from what it reported to the scheduler (JSON twice over)."""
    text = _unquoted(failure)
    try:
        return errors.error_of(json.loads(text))
    except (ValueError, KeyError, TypeError):
        pass
    if "died unexpectedly" in text:
        code = text.rsplit(" ", 1)[-1]
        return WorkerError(
            "worker-died",
            f"the process of {printable(task)} ended without a word",
            found=f"exit code {code}",
            kept="every finished stage",
            next=shlex.join(invocation.again()),
        )
    return bug(text)


def distinct(errors: Iterable[QuiverError]) -> list[QuiverError]:
    """Each error once; where one line of a person's code fails in several stages, the first: that line is the cause,
    whatever rows it met.
    """
    once: dict[Any, QuiverError] = {}
    for error in errors:
        by_line = error.slug == "op-failed" and " (line " in error.found
        once.setdefault((error.slug, error.found) if by_line else error.as_json(), error)
    return [*once.values()]


def _unquoted(failure: str) -> str:
    try:
        text = json.loads(failure)
    except ValueError:
        return failure
    return text if isinstance(text, str) else failure


def bug(text: str) -> QuiverError:
    """A bug of ours: the traceback goes to a file, one line to the screen."""
    try:
        folder = logs_folder()
        own_folder(folder)
        path = folder / f"bug-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.txt"
        replace_file(path, text)
    except QuiverError:
        return program.bug(text)
    last = text.strip().splitlines()[-1] if text.strip() else "unknown"
    return QuiverError("bug", f"{printable(last, 200)} (traceback in {path})")
