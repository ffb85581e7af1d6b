"""`quiver ops`, `formats`, `algorithms`, `recipes` and `suites`: what there is, or one of it by its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from quiver import inventory, single
from quiver.command import Command
from schemas.errors import ConfigError


def ops(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """All operations, or the one that is named."""
    if not command.at_most(1, arguments):
        return inventory.table(inventory.operations())
    from datakit.registry import kind_of

    return single.operation(kind_of(arguments[0]))


def formats(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """All formats, or the one that is named."""
    if not command.at_most(1, arguments):
        return inventory.table(inventory.formats())
    from datakit.formats.rows import named_form

    with _listed(command):
        return single.file_format(named_form(arguments[0]))


def algorithms(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """All algorithms, or the one that is named."""
    if not command.at_most(1, arguments):
        return inventory.table(inventory.algorithms())
    from trainers.registry import algorithm_of

    with _listed(command):
        return single.algorithm(algorithm_of(arguments[0]), arguments[0])


def recipes(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """All recipes; of one of them its own `--help` tells."""
    if command.at_most(1, arguments):
        there = arguments[0] in {name for name, *_ in inventory.recipes()}
        raise command.wrong(arguments[0], f"quiver {arguments[0]} --help" if there else command.call)
    return inventory.table(inventory.recipes())


def suites(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """All suites, with the formats of their rows; `docs/evaluation.md` has a command for each."""
    if command.at_most(1, arguments):
        there = arguments[0] in {name for name, *_ in inventory.suites()}
        raise command.wrong(arguments[0], "quiver Evaluate --help" if there else command.call)
    return inventory.table(inventory.suites())


@contextmanager
def _listed(command: Command) -> Iterator[None]:
    """What follows a name that there is not: the list of those that there are."""
    try:
        yield
    except ConfigError as error:
        error.next = f"{command.call} {error.nearest}".rstrip()
        raise
