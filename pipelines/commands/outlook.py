"""What a command would do, as data and as text: its stages with the reason of each, about how many rows and bytes.

Nothing is run or written. `quiver explain`, `quiver check` and `--dry-run` show it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.graph.node import Node
from pipelines.graph.why import why
from pipelines.runtime import disk_estimate
from schemas.display import human_bytes
from schemas.errors import counted, printable
from schemas.process import terminal
from schemas.store.storage import relative

_MOST = 60
"""Stages that are printed of each list."""


def outlook(task: str, todo: Sequence[Node], reused: Sequence[Node]) -> dict[str, Any]:
    """What the command `task` would run, in its order, and what is reused where the work begins."""
    sizes = disk_estimate.sizes(todo)
    root = next((node.root for node in (*todo, *reused)), "://")
    return {
        "task": task,
        "root": root,
        "stages": [
            {"stage": node.label, "operation": str(node.work.get("name", "")), "why": why(node),
             "rows": round(size.rows) if node.kind == "dataset" else None, "bytes": round(size.bytes),
             "place": node.url}
            for node, size in zip(todo, sizes, strict=True)
        ],
        "reused": [{"stage": node.label, "rows": rows_there(node), "place": node.url} for node in reused],
        "bytes": round(sum(size.bytes for size in sizes)),
        "free": _free(root),
    }  # fmt: skip


def rows_there(node: Node) -> int | None:
    """Rows of a dataset that is there; None of anything else."""
    manifest = node.manifest()
    return None if manifest is None or manifest.kind != "dataset" else manifest.num_rows


def _free(root: str) -> int | None:
    """Bytes that are free on the disk of the root; None where it is no local folder."""
    with suppress(OSError, StopIteration):
        if "://" not in root:
            return shutil.disk_usage(next(one for one in (Path(root), *Path(root).parents) if one.exists())).free
    return None


def lines(listing: dict[str, Any]) -> Iterator[str]:
    """The stages with their reasons, at the terminal's width."""
    stages, reused, task = listing["stages"], listing["reused"], listing["task"]
    if not stages:
        yield terminal.wrapped(f"{task}: everything is there already, nothing would run")
    else:
        yield terminal.wrapped(f"{task}: {counted(len(stages), 'stage')} would run, {len(reused):,} reused")
        yield from terminal.table([(printable(one["stage"], 60), _line(one)) for one in stages[:_MOST]], "  ")
        if stages[_MOST:]:
            yield f"  and {counted(len(stages) - _MOST, 'more stage')}: --json"
    if reused:
        yield ""
        yield "reused where the work begins" if stages else "there"
        yield from terminal.table(
            [(printable(one["stage"], 60), printable(relative(one["place"]), 300)) for one in reused[:_MOST]], "  "
        )
    if stages:
        yield ""
        yield terminal.wrapped(room(listing))


def room(listing: dict[str, Any]) -> str:
    """How much room the stages take, and how much there is."""
    free = listing["free"]
    there = "" if free is None else f", {human_bytes(free)} are free"
    return f"about {human_bytes(listing['bytes'])} below {relative(listing['root'])}{there}"


def _line(stage: dict[str, Any]) -> str:
    rows = "" if stage["rows"] is None else f"~{counted(stage['rows'], 'row')}, "
    return f"{stage['why']} ({rows}~{human_bytes(stage['bytes'])})"
