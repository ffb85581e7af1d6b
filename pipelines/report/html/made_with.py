"""Which settings made the results, how long that took, and on which machine."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.report.html import charts
from pipelines.report.html.blocks import Chart, Charts, Grid, Section
from pipelines.report.html.outcome import duration
from pipelines.report.html.reported import ReportedRun, short

_STAGES, _LONGEST, _VALUE = 250, 12, 300


def settings(run: ReportedRun) -> Section | None:
    """The settings of every stage, as its manifest has them: those that are off are left out."""
    rows = tuple(
        (short(run.entries, one), one.made.op, str(one.made.seed), _shown(one.made.params))
        for one in run.entries[-_STAGES:]
    )
    stages = Grid(
        caption="Stages and their settings", columns=("stage", "operation", "seed", "settings"), rows=rows, folded=True
    )
    return Section(title="Settings", blocks=(stages,)) if rows else None


def timings(run: ReportedRun) -> Section | None:
    """Seconds of every operation together, and of the longest stages."""
    by_op: dict[str, float] = defaultdict(float)
    for entry in run.entries:
        by_op[entry.made.op] += entry.made.seconds or 0.0
    listed = sorted(by_op.items(), key=lambda one: -one[1])[:_LONGEST]
    longest = sorted(run.entries, key=lambda one: -(one.made.seconds or 0.0))[:_LONGEST]
    drawn = [
        _bars("by operation", [(name, seconds) for name, seconds in listed if seconds]),
        _bars(
            "longest stages",
            [(short(run.entries, one), one.made.seconds or 0.0) for one in longest if one.made.seconds],
        ),
    ]
    total = duration(sum(by_op.values()))
    lead = f"{total} of work in all, once processes had started, that of stages which were there already included."
    return (
        Section(title="Timings", lead=lead, blocks=(Charts(charts=tuple(filter(None, drawn))),)) if any(drawn) else None
    )


def environment(run: ReportedRun) -> Section | None:
    """The machine, and versions of what was at work."""
    rows = tuple(run.record.environment.items())
    grid = Grid(caption="Where the run ended", columns=("what", "version"), rows=rows)
    return Section(title="Environment", blocks=(grid,)) if rows else None


def _bars(caption: str, listed: list[tuple[str, float]]) -> Chart | None:
    if not listed:
        return None
    rows = tuple((name, f"{seconds:.1f}") for name, seconds in listed)
    grid = Grid(caption=caption, columns=("", "seconds"), rows=rows, folded=True)
    return Chart(caption=caption, spec=charts.bars(listed, ".1f", "seconds"), grid=grid)


def _shown(params: Mapping[str, Any]) -> str:
    return "; ".join(_each(params)) or "none"


def _each(params: Mapping[str, Any]) -> Iterator[str]:
    for name, value in params.items():
        if value is not None and value is not False and value not in ("", [], {}):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{name} {text if len(text) <= _VALUE else text[:_VALUE] + '…'}"
