"""`quiver explain TASK ...`: what a command would run and why. `quiver check TASK ...`: what would be refused of it.

The graph is Luigi's side, so a process of its own.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence

from quiver.command import Command
from schemas.process import interpreter

_ROOT, _LUIGIS_ROOT = "--root", "--quiver-root"


def explain(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """The explanation line by line; `SystemExit` with the process's exit code where it has an error, which it says."""
    return _lines(*_process("pipelines.commands.explaining", command, arguments))


def check(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """Stages and faults are the process's to print: `SystemExit` with its exit code, that of the first fault."""
    words, environment = _process("pipelines.commands.checking", command, arguments)
    raise SystemExit(subprocess.run(words, env=environment, check=False).returncode)


def _process(module: str, command: Command, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The words and the environment of the process that answers."""
    if not arguments or arguments[0].startswith("-"):
        raise command.wrong(" ".join(arguments) or "no task", f"{command.call} --help")
    words = interpreter.module(module, *map(_as_luigi_has_it, arguments))
    return words, {**os.environ, "PYTHONPATH": interpreter.importable()}


def _as_luigi_has_it(word: str) -> str:
    name, given, value = word.partition("=")
    return f"{_LUIGIS_ROOT}{given}{value}" if name == _ROOT else word


def _lines(words: Sequence[str], environment: Mapping[str, str]) -> Iterator[str]:
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, encoding="utf-8") as child:
        assert child.stdout is not None, "the child was started with a pipe"
        yield from (line.rstrip("\n") for line in child.stdout)
    if child.returncode:
        raise SystemExit(child.returncode)
