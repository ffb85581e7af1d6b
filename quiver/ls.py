"""`quiver ls`: what a workspace holds, by plain names."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from datakit.catalog.last_run import last_run
from datakit.catalog.lineage import Lineage
from datakit.catalog.named import matching, unknown_name
from datakit.catalog.workspace import Entry, Workspace, read_workspace
from quiver import grid, plain_places
from quiver.command import Command
from quiver.workspace_root import root_of
from schemas.display import human_bytes
from schemas.errors import printable
from schemas.process import terminal

_OP = 8
"""Columns that the operation has at least."""
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def ls(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """The results of the last run of each recipe, or those below a name; with `--all` every variant."""
    words, options = command.parsed(arguments)
    command.at_most(1, words)
    workspace = read_workspace(root_of(options))
    last = last_run(Lineage(workspace.entries))
    there = _below(workspace.entries, words[0], command) if words else workspace.entries
    entries = [one for one in there if "all" in options or one.place in last] or there
    if "json" in options:
        return grid.json_lines(_facts(one) | {"last_run": one.place in last} for one in entries)
    variants = any(one.place not in last for one in entries)
    return [*_table(entries, variants="all" in options or variants), *faults(workspace)]


def _below(entries: Sequence[Entry], word: str, command: Command) -> Sequence[Entry]:
    """Those that `word` names, or in that folder; `ConfigError` where there are none."""
    _, there = matching(entries, word)
    if not there:
        raise unknown_name(word, {one.name for one in entries}, command.call)
    return there


def _facts(entry: Entry) -> dict[str, object]:
    return {
        "name": entry.name,
        "variant": entry.variant,
        "kind": entry.made.kind,
        "rows_kind": entry.made.rows_kind or None,
        "rows": entry.rows if entry.made.kind == "dataset" else None,
        "bytes": entry.bytes,
        "age_seconds": max(0, int(time.time()) - entry.finished[0]),
        "made_by": entry.made.op or None,
        "place": f"{entry.root}/{entry.place}",
        "damage": entry.damage or None,
    }


def _table(entries: Sequence[Entry], variants: bool) -> Iterator[str]:
    """A line for each entry, below the folder that it stands in."""
    if not entries:
        yield "nothing is there yet"
        yield from ("", plain_places.to_do("quiver --help"))
        return
    lines = [_cells(one, variants) for one in entries]
    widths = [max(map(grid.columns, column)) for column in zip(*lines, strict=True)]
    widths[0] = min(widths[0], terminal.width() - sum(widths[1:4]) - 2 * len(widths) - _OP)
    folders: dict[str, list[tuple[str, ...]]] = {}
    for one, line in zip(entries, lines, strict=True):
        folders.setdefault(one.name.rpartition("/")[0], []).append(line)
    for folder, inside in folders.items():
        yield printable(folder or ".", terminal.width())
        for name, *numbers, op in inside:
            fits = grid.columns(name) <= widths[0]
            if not fits:  # whole, as it is to be typed
                yield f"  {name}"
            cells = (grid.placed(*one, to_right=True) for one in zip(numbers, widths[1:4], strict=True))
            head = "  ".join(["", grid.placed(name if fits else "", widths[0]), *cells, ""])
            yield head + printable(op, max(_OP, terminal.width() - len(head)))


def _cells(entry: Entry, variants: bool) -> tuple[str, str, str, str, str]:
    name = entry.place if variants else entry.name
    rows = f"{entry.rows:,}" if entry.made.kind == "dataset" else entry.made.kind
    age = max(0, int(time.time()) - entry.finished[0])
    size, unit = next(((age // length, unit) for length, unit in _UNITS if age >= length), (0, "s"))
    return printable(name.rpartition("/")[2], 60), rows, human_bytes(entry.bytes), f"{size} {unit}", entry.made.op


def faults(workspace: Workspace) -> Iterator[str]:
    """A line for everything that is not as it should be."""
    listed = {**workspace.unreadable, **{one.place: one.damage for one in workspace.entries if one.damage}}
    if listed:
        yield ""
    for place, fault in listed.items():
        yield terminal.wrapped(f"{printable(place, 200)}: {printable(fault, 300)}")
