"""`quiver report [NAME]`: the page of a run, made again of its results and of what the recipe left for it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from datakit.catalog.last_run import last_run
from datakit.catalog.lineage import Lineage
from datakit.catalog.named import named
from datakit.catalog.workspace import Entry, read_workspace
from quiver.command import Command
from quiver.workspace_root import root_of
from schemas.errors import ConflictError, DataError
from schemas.process import terminal
from schemas.store.storage import lasting, relative, shown


def report(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """Where the page was written: of the run that was finished last, or of the last one in the folder of NAME."""
    words, options = command.parsed(arguments)
    command.at_most(1, words)
    root = root_of(options)
    workspace = read_workspace(root)
    lineage = Lineage(workspace.entries)
    last = last_run(lineage)
    entries = [one for one in workspace.entries if one.place in last]
    if not entries:
        raise DataError(
            "nothing-to-report",
            "nothing is there that a page could tell of",
            found="no results",
            where=shown(workspace.root),
            kept="everything; nothing was changed",
            next="quiver --help",
        )
    chosen = named(lineage, words[0], last).entries if words else _trained(entries)
    newest = max(chosen, key=lambda one: one.finished)
    place = _written(workspace.root, newest, lineage, last, options.get("out", ""))
    yield terminal.wrapped(f"page {relative(place)}")


def _trained(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Those that trainings made, or where there are none all."""
    return [one for one in entries if one.made.kind == "checkpoint"] or entries


def _written(root: str, newest: Entry, lineage: Lineage, last: frozenset[str], out: str) -> Path:
    """The page of the run that `newest` is of: with what its recipe left, or of its results alone."""
    from pipelines.report.html import page
    from pipelines.report.html.record import of_results, read_record, records

    folder = Path(root, newest.run)
    left = next((one for one in records(folder) if newest.place in read_record(one).results), None)
    record = read_record(left) if left else of_results(newest, lineage, last)
    if out and os.path.lexists(lasting(out)):
        raise ConflictError(
            "out-taken",
            f"{shown(out)} is there already",
            expected="a new file",
            where=shown(out),
            kept="what is there; nothing was written",
            next="--out another.html",
        )
    place = Path(lasting(out)) if out else page.page_of(str(folder), record.results[-1])
    page.write(place, record, root)
    return place
