"""`quiver export URL --to FORMAT --out FILE`: rows as another toolkit's file."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from quiver import inventory
from quiver.command import Command, is_count
from schemas import Dataset
from schemas.errors import QuiverError
from schemas.process import terminal
from schemas.store.storage import lasting


def export(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """What was written; without a word the formats."""
    from datakit.formats.exports import write

    if not arguments:
        return inventory.table(inventory.exports())
    words, options = command.parsed(arguments)
    most = options.get("max-rejected", "0")
    if len(words) != 1 or not {"to", "out"} <= options.keys() or not is_count(most):
        given = {"to": "trl", "out": write.free_name("rows.jsonl")} | options
        flags = [f"--{name} {shlex.quote(value)}" for name, value in given.items() if name != "max-rejected"]
        complete = f"{command.call} {shlex.quote(words[0])} {' '.join(flags)}" if words else ""
        raise command.wrong(" ".join(arguments), complete)
    lasting(options["out"])
    keep = [name for name in options.get("keep", "").split(",") if name]
    with _whole(f"{command.call} {shlex.quote(words[0])}", options):
        made = write.export(Dataset.open(words[0]), options["to"], options["out"], keep, int(most))
        return [terminal.wrapped(str(made), "  ")]


@contextmanager
def _whole(call: str, options: Mapping[str, str]) -> Iterator[None]:
    """Flags that an error names become the command that was given, with them."""
    try:
        yield
    except QuiverError as error:
        if error.next.startswith("--"):
            name, _, value = error.next[2:].partition(" ")
            flags = [f"--{one} {shlex.quote(text)}" for one, text in options.items() if one != name]
            error.next = f"{call} {' '.join([*flags, f'--{name} {value}'])}"
        raise
