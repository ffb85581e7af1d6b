"""What the tracer says, in the form of `recomputed`; and the check of one against the other."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from datakit.catalog.ask import workspace_process
from datakit.catalog.workspace import read_workspace
from datakit.trace.fed import Fed
from datakit.trace.row_trace import Event, Tracer
from tests.datakit.trace.recomputed import Files, facts


def fact(event: Event) -> tuple[Any, ...]:
    """An event as `recomputed.facts` says it."""
    figures: tuple[Any, ...] = ()
    if event.kind == "dropped":
        figures = tuple(event.values[name] for name in ("reason", "value", "threshold"))
    if event.steps:
        figures = tuple(sorted((one["step"], one["epoch"], one["weight"], one["loss"]) for one in event.steps))
    return (event.entry.place, event.kind, event.row, *figures)


def agree(root: Path, rows: int, seed: int = 0) -> dict[str, int]:
    """Hold the tracer against the files for so many random rows of the workspace; how many facts of each kind."""
    files = Files(root)
    all_rows = sorted(
        {own for place, several in files.rows.items() for one in several if (own := files.own(place, one))}
        | {own for place, several in files.aside.items() for one in several if (own := files.own(place, one, True))}
    )
    counts: dict[str, int] = {}
    with workspace_process(root) as process:
        tracer = Tracer(read_workspace(str(root)), process)
        for row in random.Random(seed).sample(all_rows, min(rows, len(all_rows))):
            assert tracer.identified(row[1], row[0]) == row
            expected, answered = facts(files, row), [fact(one) for one in tracer.trace(row).events]
            assert len(answered) == len(set(answered)), row
            assert set(answered) == expected, (row, set(answered) ^ expected)
            for _, kind, *_ in expected:
                counts[kind] = counts.get(kind, 0) + 1
    return counts


def fed_agrees(root: Path) -> int:
    """Hold the rows of every checkpoint against the files; how many checkpoints there are."""
    files = Files(root)
    checkpoints = [place for place, made in files.manifests.items() if made["kind"] == "checkpoint"]
    with workspace_process(root) as process:
        workspace = read_workspace(str(root))
        tracer = Tracer(workspace, process)
        for entry in workspace.entries:
            if entry.place not in checkpoints:
                continue
            fed, answered = Fed(tracer, process, entry), {}
            for one in fed.rows(fed.passed()):
                steps = zip(one["steps"] or [], one["weights"] or [], one["losses"] or [], strict=True)
                answered[one["id"]] = (one["count"], sorted(steps), set(one["passed"]))
            assert answered == _expected(files, entry.place), entry.place
    return len(checkpoints)


def _expected(files: Files, checkpoint: str) -> dict[str, Any]:
    [data] = files.inputs(checkpoint, "data")
    expected: dict[str, Any] = {}
    for one in files.rows[data]:
        own = files.own(data, one)
        assert own is not None
        expected.setdefault(own[1], [0, [], set()])[0] += 1
    for one in files.rows.get(f"{checkpoint}.records", []):
        own = files.own(f"{checkpoint}.records", one)
        assert own is not None
        expected[own[1]][1].append((one["step"], one["weight"], one["loss"]))
    way, waiting = {data}, [data]
    while waiting:
        more = {*files.inputs(waiting.pop())} - way
        way |= more
        waiting += more
    chooses = ("filter.", "blend.", "sql.", "generate.", "io.", "notebook.")
    kind = files.own(data, files.rows[data][0])
    for place in way:
        if files.is_rows(place) and files.op(place).startswith(chooses):
            for one in files.rows[place]:
                own = files.own(place, one)
                if own and kind and own[0] == kind[0] and own[1] in expected:
                    expected[own[1]][2].add(place)
    return {row: (count, sorted(steps), passed) for row, (count, steps, passed) in expected.items()}
