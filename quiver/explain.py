"""`quiver explain TASK ...`: what a command would run and why. The graph is Luigi's side, so a process of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence

from quiver.command import Command
from schemas.process import interpreter

_ROOT, _LUIGIS_ROOT = "--root", "--quiver-root"


def explain(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """The explanation line by line; `SystemExit` with the process's exit code where it has an error, which it says."""
    if not arguments or arguments[0].startswith("-"):
        raise command.wrong(" ".join(arguments) or "no task", f"{command.call} --help")
    return _lines([*map(_as_luigi_has_it, arguments)])


def _as_luigi_has_it(word: str) -> str:
    name, given, value = word.partition("=")
    return f"{_LUIGIS_ROOT}{given}{value}" if name == _ROOT else word


def _lines(arguments: Sequence[str]) -> Iterator[str]:
    words = interpreter.module("pipelines.commands.explaining", *arguments)
    environment = {**os.environ, "PYTHONPATH": interpreter.importable()}
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, encoding="utf-8") as child:
        assert child.stdout is not None, "the child was started with a pipe"
        yield from (line.rstrip("\n") for line in child.stdout)
    if child.returncode:
        raise SystemExit(child.returncode)
