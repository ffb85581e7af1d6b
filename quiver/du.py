"""`quiver du`: what takes the room of a workspace, by folder and kind, and how much of it is of the last runs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from datakit.catalog.disk import Piece, freed, pieces
from datakit.catalog.last_run import last_run
from datakit.catalog.lineage import Lineage
from datakit.catalog.named import names_of, unknown_name
from datakit.catalog.workspace import read_workspace
from quiver import grid, plain_places
from quiver.command import Command
from quiver.ls import faults
from quiver.workspace_root import in_root, root_of
from schemas.display import human_bytes
from schemas.process import terminal

_STEP = re.compile(r"/step=\d+$")
_KINDS = ("dataset", "checkpoint", "run", "saves")


def du(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """Bytes below the root, or below a name: a line for each folder; with `--json` one for each result."""
    words, options = command.parsed(arguments)
    command.at_most(1, words)
    workspace = read_workspace(root_of(options))
    last = last_run(Lineage(workspace.entries))
    listed = [*pieces(workspace)]
    if words:
        listed = _below(listed, words[0], names_of(workspace.root, words[0]), command)
    if "json" in options:
        return grid.json_lines(_facts(one, last) for one in listed)
    following = ("", "what nothing refers to (nothing is removed without --yes)",
                 plain_places.to_do(in_root("quiver prune", options)))  # fmt: skip
    return [*_table(listed, last), *faults(workspace), *following]


def _below(listed: Sequence[Piece], word: str, meant: Sequence[str], command: Command) -> list[Piece]:
    """Those of a name or place that `word` may have `meant`, or in that folder; `ConfigError` where there are none."""
    names = {id(one): {one.place, *(() if one.entry is None else (one.entry.name,))} for one in listed}
    inside = tuple(f"{name}/" for name in meant)
    there = [one for one in listed if names[id(one)] & {*meant} or one.place.startswith(inside)]
    if not there:
        raise unknown_name(word, {*set().union(*names.values()), *map(_folder, listed)} - {"."}, command.call)
    return there


def _folder(piece: Piece) -> str:
    """The folder of the iteration, or another one, that the piece counts to."""
    name = piece.place if piece.entry is None else piece.entry.name
    return _STEP.sub("", name.rpartition("/")[0]) or "."


def _facts(piece: Piece, last: Collection[str]) -> dict[str, Any]:
    entry = piece.entry
    return {
        "place": piece.place,
        "kind": piece.kind,
        "name": None if entry is None else entry.name,
        "recipe": None if entry is None else entry.recipe,
        "experiment": None if entry is None else entry.experiment,
        "iteration": None if entry is None else entry.iteration,
        "bytes": piece.bytes,
        "last_run": None if entry is None else entry.place in last,
    }


def _table(listed: Sequence[Piece], last: Collection[str]) -> Iterator[str]:
    """A line for each folder with bytes by kind, and how many of all are of other variants than the last run's."""
    folders: dict[str, list[Piece]] = defaultdict(list)
    for piece in listed:
        folders[_folder(piece)].append(piece)
    rows = [_line(folder, inside, last) for folder, inside in folders.items()]
    yield from grid.grid(pa.Table.from_pylist([*rows, _line("all", listed, last)]))
    total, apart = freed(listed), sum(one.bytes for one in listed)
    if total != apart:
        yield ""
        yield terminal.wrapped(f"{human_bytes(total)} would be free without all of it: some files have two names")


def _line(folder: str, inside: Sequence[Piece], last: Collection[str]) -> dict[str, str]:
    sizes = {kind: sum(one.bytes for one in inside if one.kind == kind) for kind in _KINDS}
    total = sum(one.bytes for one in inside)
    older = sum(one.bytes for one in inside if one.entry is not None and one.entry.place not in last)
    runs = sizes["run"] + sizes["saves"]
    cells = {"datasets": sizes["dataset"], "checkpoints": sizes["checkpoint"], "runs": runs}
    cells |= {"other": total - sum(cells.values()), "all": total, "older": older}
    return {"folder": folder, **{name: human_bytes(size) if size else "-" for name, size in cells.items()}}
