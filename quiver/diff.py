"""`quiver diff A B`: two iterations, experiments, datasets or checkpoints held against each other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datakit.catalog.ask import workspace_process
from datakit.catalog.last_run import last_run
from datakit.catalog.lineage import Lineage
from datakit.catalog.named import Named, named
from datakit.catalog.workspace import read_workspace
from datakit.trace.difference import Difference, difference
from quiver import grid
from quiver.command import Command
from quiver.workspace_root import root_of
from schemas.errors import counted, printable
from schemas.process import terminal

_MOST = 40
"""Settings and stages that are printed of each list."""
_VALUE = 60
_SIDES = {"rows_a": "rows A", "rows_b": "rows B", "only_a": "only A", "only_b": "only B", "samples_a": "n A",
          "samples_b": "n B", "mean_a": "mean A", "mean_b": "mean B", "spread_a": "std A",
          "spread_b": "std B", "difference": "B - A", "wins_a": "A wins", "wins_b": "B wins", "win_rate_b": "B rate",
          "ninth_decile_a": "90% A", "ninth_decile_b": "90% B", "most_a": "max A", "most_b": "max B",
          "share_a": "share A", "share_b": "share B", "finish_reason": "finish", "a": "A", "b": "B"}  # fmt: skip
"""Columns as they are headed."""
_WIDE = 100
"""Columns of a terminal from which on stages are named where the scorers tell rows apart."""
_ONE_SIDE = ("stage", "scorer", "samples_a", "mean_a", "spread_a", "samples_b", "mean_b", "spread_b")
_BOTH_SIDES = ("stage", "scorer", "prompts", "difference", "low", "high", "wins_b", "ties", "wins_a", "win_rate_b")


def diff(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """What the two sides differ in, or with `--json` all of it as one object."""
    words, options = command.parsed(arguments)
    if len(words) != 2:
        raise command.wrong(" ".join(arguments) or "no names", f"{command.call} --help")
    root = root_of(options)
    workspace = read_workspace(root)
    lineage = Lineage(workspace.entries)
    last = last_run(lineage)
    a, b = (named(lineage, word, last) for word in words)
    with workspace_process(root) as process:
        between = difference(lineage, process, a, b, last)
    return _json(a, b, between) if "json" in options else _text(a, b, between)


def _json(a: Named, b: Named, between: Difference) -> Iterator[str]:
    sides = {side: {"name": one.name, "kind": one.kind, "results": [entry.place for entry in one.entries]}
             for side, one in (("a", a), ("b", b))}  # fmt: skip
    parts = {part: value.to_pylist() if isinstance(value, pa.Table) else value for part, value in vars(between).items()}
    yield json.dumps(grid.plain({**sides, **parts}), indent=1)


def _text(a: Named, b: Named, between: Difference) -> Iterator[str]:
    for side, one in (("A", a), ("B", b)):
        what = f"a folder of {counted(len(one.entries), 'result')}" if one.kind == "folder" else one.entries[0].place
        yield terminal.wrapped(f"{side}  {printable(one.name, 200)}: {printable(what, 200)}")
    rewards = between.rewards
    yield from _section("rows, by what they are of", between.rows)
    if a.kind == "folder" or b.kind == "folder" or not between.rows.num_rows:
        yield from _section("rows of stages that differ", _table(between.stages))
    yield from _section("rewards (n samples, mean, standard deviation)", rewards.select(_ONE_SIDE))
    if not rewards.num_rows:
        yield from ("", "no rewards on either side")
    shared = rewards.filter(pc.is_valid(rewards["prompts"])).select(_BOTH_SIDES)
    by_scorer = len(set(shared["scorer"].to_pylist())) == shared.num_rows
    yield from _section(
        "on common prompts, mean of each (low to high: 95 % interval of B - A; B rate: wins and half of the ties)",
        shared.drop_columns(["stage"]) if by_scorer and terminal.width() < _WIDE else shared,
    )
    if rewards.num_rows and not shared.num_rows:
        yield from ("", "no prompt has rewards on both sides")
    yield from _section("lengths", between.lengths)
    yield from _section("finish reasons", between.finish_reasons)
    yield from _section("settings that differ", _table(between.settings))
    if not between.settings:
        yield from ("", "settings of stages of the same name are the same")


def _section(title: str, table: pa.Table) -> Iterator[str]:
    """A grid below a title, without columns that are empty in all rows; nothing where there are no rows."""
    if not table.num_rows:
        return
    empty = [one for one in table.column_names if not any(table[one].to_pylist()[:_MOST]) and one in ("stage", "what")]
    table = pa.table({one: _rounded(table[one]) for one in table.column_names if one not in empty})
    yield from ("", terminal.wrapped(title))
    yield from grid.grid(table.slice(0, _MOST).rename_columns([_SIDES.get(one, one) for one in table.column_names]))
    if table.num_rows > _MOST:
        yield f"{counted(table.num_rows - _MOST, 'more row')}: --json"


def _rounded(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Numbers that are no counts with four digits, so that two sides stand side by side."""
    if not pa.types.is_floating(column.type):
        return column
    return pa.array([None if one is None else float(f"{one:.4g}") for one in column.to_pylist()], pa.float64())


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """The rows as a table of texts and counts."""
    cells = [{name: one if name.startswith("rows") else _short(one) for name, one in row.items()} for row in rows]
    return pa.Table.from_pylist(cells)


def _short(value: Any) -> str:
    return printable(value if isinstance(value, str) else "-" if value is None else json.dumps(value), _VALUE)
