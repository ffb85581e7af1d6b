"""`quiver catalog`: the file of the views over a workspace, made again and listed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence

from datakit.catalog.workspace import read_workspace
from quiver import plain_places
from quiver.command import Command
from quiver.ls import faults
from quiver.workspace_root import in_root, root_of
from schemas.errors import counted
from schemas.process import terminal
from schemas.store.storage import relative


def catalog(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """Make the file of the views again, and list them."""
    from datakit.catalog.catalog_file import CATALOG, refresh, views_of
    from datakit.catalog.forensics import FORENSICS

    words, options = command.parsed(arguments)
    command.at_most(0, words)
    workspace = read_workspace(root_of(options))
    made = refresh(workspace, anew=True)
    assert made, "a catalog that is made anew is made"
    place = relative(os.path.join(workspace.root, CATALOG))
    yield terminal.wrapped(f"{place}: views over {counted(len(workspace.entries), 'result')}")
    yield ""
    views = views_of(workspace)
    yield from terminal.table(
        [(name, view.meaning) for (schema, name), view in views.items() if schema == "main"], "  "
    )
    yield from ("", terminal.wrapped("Signs that a reward is learnt in place of the task, and how each is read:"))
    asked = [(f"{schema}.{name}", view.meaning) for (schema, name), view in views.items() if schema == FORENSICS]
    yield from terminal.table(asked, "  ")
    yield from faults(workspace)
    yield from (
        "",
        plain_places.to_do(in_root("quiver sql 'FROM iterations'", options)),
        f"or: duckdb {shlex.quote(place)}",
    )
