"""One operation as a terminal shows it: what it does, the columns that it reads and adds, its settings."""

from __future__ import annotations

from collections.abc import Iterator

from datakit.op import Label, Op
from quiver import catalog, reference
from schemas.process import terminal


def lines(kind: type[Op]) -> Iterator[str]:
    """What `reference.operation` says of it, at the terminal's width."""
    example = reference.example(kind)
    family, _, name = kind.name.partition(".")
    yield kind.name
    yield ""
    for block in reference.prose(kind).split("\n\n"):
        yield block if block.startswith(" ") else terminal.wrapped(" ".join(block.split()), "")
        yield ""
    yield terminal.wrapped(reference.facts(kind, example).replace("`", ""))
    if isinstance(example, Label):
        yield "\nColumns added"
        yield from terminal.table(
            [(column.name, f"{reference.kind_of(column.type)}: {column.meaning}") for column in example.adds], "  "
        )
    settings = reference.settings(kind)
    if settings:
        yield "\nSettings, for --params as JSON"
        yield from terminal.table([(setting[0], _about(*setting[1:])) for setting in settings], "  ")
    if family in catalog.VERBS:
        yield ""
        yield terminal.wrapped(f"As a command: quiver {catalog.VERBS[family]} --op {name} --data FOLDER_OR_FILE ...")


def _about(hint: str, default: str, meaning: str) -> str:
    given = default if default == "needed" else f"default {default.strip('`')}"
    return f"{hint}; {given}{f'. {meaning}' if meaning else ''}"
