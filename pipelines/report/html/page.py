"""The sections of a page, and the one file that they are written to: no longer than `MOST_BYTES`.

All data stand in text nodes and attributes that the template escapes, and every character that steers a terminal, turns
text around or is not seen is written as its number. The only script is ours, and the page allows no other.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datakit.catalog.ask import workspace_process
from datakit.catalog.workspace import read_workspace
from pipelines.report.html import charts, outcome
from pipelines.report.html.ancestry import ancestry
from pipelines.report.html.answers import answers
from pipelines.report.html.asked import asked
from pipelines.report.html.blocks import Section
from pipelines.report.html.curves import curves
from pipelines.report.html.drift import drift
from pipelines.report.html.funnel import funnel
from pipelines.report.html.made_with import environment, settings, timings
from pipelines.report.html.record import RunRecord, recorded
from pipelines.report.html.reported import ReportedRun
from pipelines.report.html.rewards import rewards
from pipelines.report.html.signs import signs
from pipelines.report.renderer import Report
from schemas.errors import DataError, QuiverError, escaped
from schemas.installed import with_extra
from schemas.process import terminal
from schemas.store.ownfiles import replace_file
from schemas.store.storage import relative

MOST_BYTES = 5 << 20
ROWS = 120
"""Answers of a page, unless they are too long."""

_LOG = logging.getLogger("luigi-interface")
_HERE = Path(__file__).parent
_CELL = 4000
"""Characters of any one text."""

_Part = Callable[[ReportedRun], Section | None]
_PARTS: Sequence[_Part] = (rewards, funnel, drift, signs, curves)
_LAST_PARTS: Sequence[_Part] = (asked, ancestry, settings, timings, environment)


def render(report: Report) -> str:
    """Write the page of a run that ends now, and what it is made of; where it lies. A run never fails by its page."""
    if not report.results:
        return ""
    if "://" in report.root:
        return "\nno page: pages are written below local folders"
    try:
        record = recorded(report)
        place = page_of(report.folder, report.results[-1])
        replace_file(place.with_suffix(".json"), record.to_json())
        write(place, record, report.root)
    except Exception as fault:  # a full disk, rows that are gone, a bug: the results are there all the same
        _LOG.exception("the page of %s", report.title)
        return terminal.wrapped(f"\nno page: {fault.what if isinstance(fault, QuiverError) else fault}")
    return f"\npage {relative(place)}"


def page_of(folder: str, result: str) -> Path:
    """Where the page of the run lies whose last result is `result`."""
    return Path(folder, f"report-{result.rpartition('-')[2][:8]}.html")


def write(place: Path, record: RunRecord, root: str) -> None:
    """Write the page of `record`; `DataError` where it cannot be made small enough."""
    workspace = read_workspace(root)
    with workspace_process(root) as process:
        run = ReportedRun(workspace, record, process)
        rows = ROWS
        fixed = [*_sections(run, _PARTS)]
        last = [*_sections(run, _LAST_PARTS)]
        while True:
            shown = _sections(run, (functools.partial(answers, rows=rows),))
            data = html(run, [*fixed, *shown, *last]).encode()
            if len(data) <= MOST_BYTES:
                break
            if not rows:
                raise DataError("report-size", "the page of figures would be too large", found=f"{len(data):,} bytes")
            rows //= 2
    replace_file(place, data)


def _sections(run: ReportedRun, parts: Sequence[_Part]) -> Iterator[Section]:
    """What each part says; a fault of one is a line in its place."""
    for part in parts:
        try:
            section = part(run)
        except QuiverError as fault:
            title = getattr(part, "__name__", "answers").capitalize()
            section = Section(title=title, lead=f"Left out: {fault.what}")
        if section is not None:
            yield section


def html(run: ReportedRun, sections: Sequence[Section]) -> str:
    """The text of the page with these sections, in their order."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "search.js"))
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, finalize=_inert,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    drawn = charts.svg({"mark": "point", "data": {"values": []}}) is not None
    return environment.get_template("page.html.jinja").render(
        title=f"{run.record.task}: {_folder(run)}",
        run=run.record,
        folder=_folder(run),
        paragraph=outcome.paragraph(run),
        headline=outcome.headline(run),
        sections=sections,
        svg=charts.svg,
        drawn=drawn,
        extra=with_extra("report"),
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; "
        "form-action 'none'",
    )


def _inert(value: Any) -> Any:
    """Data as a page shows it: no text too long to be read, every character seen."""
    if hasattr(value, "__html__") or not isinstance(value, str):
        return value
    return escaped(value if len(value) <= _CELL else f"{value[:_CELL]} … ({len(value):,} characters)")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _folder(run: ReportedRun) -> str:
    """The folder of the recipe and experiment."""
    last = [entry for entry in run.entries if entry.place == run.record.results[-1]] or run.entries[-1:]
    return last[0].run if last else run.workspace.root
