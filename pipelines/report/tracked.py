"""The tables of a run where its trainings are tracked: Weights & Biases and MLflow, where `track` of one asks for them.

They are a run of their own there, beside those of the trainings, and the same one when a recipe is run again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from pipelines.cli.console import say
from pipelines.report.figures import FigureTable, Value
from pipelines.report.renderer import Renderer, Report
from pipelines.report.table import cells

_SHOWS_TABLES = ("wandb", "mlflow")
_AGAIN = 1
"""A step that was logged: who knows of one goes on with the run that is there."""


def render(report: Report) -> str:
    """Hand the tables on; where to. What fails there is a line, and no fault of the run."""
    asked = [name for name in report.track if name in _SHOWS_TABLES]
    if not asked or not report.tables or not report.results or "://" in report.root:
        return ""
    from trainers.engine.reporting.report import all_trackers
    from trainers.engine.reporting.trackers.tracker import Facts, Trackers

    key = report.results[-1].rpartition("-")[2][:8]
    name = f"{report.title} {os.path.relpath(report.folder, report.root)}"
    facts = Facts(
        name, Path(report.folder, f"report-{key}.tracked"), {"command": report.command, "result": report.results[-1]},
        last_logged=_AGAIN,
    )  # fmt: skip
    named = all_trackers()
    trackers = Trackers([named[one]() for one in asked], facts, say, work="the run", kept="its page")
    for table in report.tables:
        trackers.table(table.title, [column.name for column in table.columns], [*_rows(table)])
    there = trackers.names
    trackers.close("finished")
    return f"\ntables in {' and '.join(there)}: {name}" if there else ""


def _rows(table: FigureTable) -> Iterator[list[Value]]:
    """Numbers as they are, so that they can be drawn; of a column with several in a cell the texts of the page."""
    texts = cells(table)
    several = {at for row in table.rows for at, value in enumerate(row) if isinstance(value, tuple)}
    for row, shown in zip(table.rows, texts, strict=True):
        yield [shown[at] if at in several else _plain(value) for at, value in enumerate(row)]  # type: ignore[arg-type]


def _plain(value: Value) -> Value:
    """A number that JSON has no word for is none."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


TRACKED = Renderer(name="tracked", render=render)
