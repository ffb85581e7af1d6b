"""`python -m pipelines.commands.explaining TASK ...`: what a command would run and why; nothing is run or written.

It builds the graph as the command does, and says of every stage that is missing why it would run, and about how many
rows and bytes it would make; of what stands where the work begins, that it is reused.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import luigi

from pipelines.commands.command import Command, outstanding
from pipelines.graph.node import Node
from pipelines.graph.why import why
from pipelines.runtime import disk_estimate
from pipelines.runtime.command import planned, run
from schemas.display import human_bytes
from schemas.errors import ConfigError, counted, printable
from schemas.process import program, terminal
from schemas.store.storage import relative

_JSON = "--json"
_MOST = 60
"""Stages that are printed of each list."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Explain the command in `arguments`, as one object with `--json` among them; exit codes are the command's own."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = _JSON in words
    sys.argv[0] = "quiver"  # so that an error names the command as `quiver TASK ...`
    run(["--module", "pipelines", *(word for word in words if word != _JSON)],
        how=lambda given: planned(given, lambda task: _print(_explained(task), as_json)))  # fmt: skip
    return 0


def _explained(task: luigi.Task) -> dict[str, Any]:
    """What would run, in its order, and what is reused; `ConfigError` for a task that is no command of ours."""
    if not isinstance(task, Command):
        raise ConfigError(
            "unknown-command",
            f"{task.task_family} is one stage of a graph, and nobody's command",
            expected="a recipe or a stage that quiver --help lists",
            kept="nothing was started",
            next="quiver --help",
        )
    todo, reused = outstanding(task.targets)
    sizes = disk_estimate.sizes(todo)
    root = next((node.root for node in (*todo, *reused)), "://")
    return {
        "task": task.task_family,
        "root": root,
        "stages": [
            {"stage": node.label, "operation": str(node.work.get("name", "")), "why": why(node),
             "rows": round(size.rows) if node.kind == "dataset" else None, "bytes": round(size.bytes),
             "place": node.url}
            for node, size in zip(todo, sizes, strict=True)
        ],
        "reused": [{"stage": node.label, "rows": _rows(node), "place": node.url} for node in reused],
        "bytes": round(sum(size.bytes for size in sizes)),
        "free": _free(root),
    }  # fmt: skip


def _rows(node: Node) -> int | None:
    manifest = node.manifest()
    return None if manifest is None or manifest.kind != "dataset" else manifest.num_rows


def _free(root: str) -> int | None:
    """Bytes that are free on the disk of the root; None where it is no local folder."""
    with suppress(OSError, StopIteration):
        if "://" not in root:
            return shutil.disk_usage(next(one for one in (Path(root), *Path(root).parents) if one.exists())).free
    return None


def _print(explained: dict[str, Any], as_json: bool) -> None:
    print(json.dumps(explained, indent=1) if as_json else "\n".join(_text(explained)))


def _text(explained: dict[str, Any]) -> Iterator[str]:
    stages, reused, task = explained["stages"], explained["reused"], explained["task"]
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
        free = explained["free"]
        room = "" if free is None else f", {human_bytes(free)} are free"
        yield ""
        yield terminal.wrapped(f"about {human_bytes(explained['bytes'])} below {relative(explained['root'])}{room}")


def _line(stage: dict[str, Any]) -> str:
    rows = "" if stage["rows"] is None else f"~{counted(stage['rows'], 'row')}, "
    return f"{stage['why']} ({rows}~{human_bytes(stage['bytes'])})"


if __name__ == "__main__":
    program.run(main)
