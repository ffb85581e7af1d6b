"""What a run leaves besides its results, so that its page can be made again: what was asked, its figures as texts, the
machine. It lies beside the page, `report-<key>.json`.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from datakit.catalog.lineage import Lineage
from datakit.catalog.workspace import Entry
from pipelines.report.figures import Change
from pipelines.report.html.blocks import Grid
from pipelines.report.renderer import Report
from pipelines.report.table import cells, changes
from schemas.errors import DataError, QuiverError, printable
from schemas.settings import parse
from schemas.untrusted import parsing, strict_json

_LARGEST = 8 << 20
_LIBRARIES = ("quiver-align", "torch", "megatron-core", "pyarrow", "duckdb", "polars", "tokenizers", "luigi")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """`results` are places below the root: all that the run stands on, what it made last at their end."""

    task: str
    results: tuple[str, ...]
    command: str = ""
    finished: str = ""
    tables: tuple[Grid, ...] = ()
    changes: tuple[Change, ...] = ()
    environment: Mapping[str, str]

    def to_json(self) -> str:
        """One object with a key for each field, as `read_record` takes it."""
        return json.dumps(asdict(self), indent=1)


def recorded(report: Report) -> RunRecord:
    """What there is to keep of a run that ends now."""
    tables = [
        Grid(
            caption=table.title,
            columns=tuple(column.name for column in table.columns),
            rows=cells(table),
            meanings=tuple((column.name, column.meaning) for column in table.columns if column.meaning),
            notes=table.notes,
        )
        for table in report.tables
    ]
    return RunRecord(
        task=report.title,
        command=report.command,
        finished=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        results=report.results,
        tables=tuple(tables),
        changes=tuple(one for table in report.tables for one in changes(table)),
        environment=dict(_environment()),
    )


def read_record(path: Path) -> RunRecord:
    """The record at `path`; `DataError` for a file that is none."""

    def wrong(words: str) -> DataError:
        return DataError(
            "report-unreadable",
            "what a run left for its page cannot be read",
            expected="a file that a recipe wrote",
            found=printable(words, 200),
            where=str(path),
            kept="everything; nothing was changed",
            next="remove that file: the page is then made of the results alone",
        )

    try:
        with parsing(wrong), path.open("rb") as file:
            record = parse(RunRecord, strict_json(file.read(_LARGEST)))
    except QuiverError as error:
        raise wrong(error.what) from None
    if any(len(row) != len(grid.columns) for grid in record.tables for row in grid.rows):
        raise wrong("a row of another length than its table")
    return record


def records(folder: Path) -> list[Path]:
    """The records in `folder`, the newest first."""
    listed = [path for path in folder.glob("report-*.json") if path.is_file()]
    return sorted(listed, key=lambda path: path.stat().st_mtime, reverse=True)


def of_results(newest: Entry, lineage: Lineage, last: Collection[str]) -> RunRecord:
    """The record of a run that left none, whose last result is `newest`: the results of the `last` runs in its folder,
    and all that they were made of.
    """
    entries = lineage.entries
    own = (number for number, one in enumerate(entries) if one.run == newest.run and one.place in last)
    chosen = lineage.with_above(own)
    places = [entries[one].place for one in sorted(chosen) if entries[one] is not newest]
    return RunRecord(task=newest.run or newest.name, results=(*places, newest.place), environment={})


def _environment() -> Iterator[tuple[str, str]]:
    yield "Python", platform.python_version()
    for name in _LIBRARIES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
    yield "system", platform.platform(terse=True)
    yield "processor", platform.machine()
    yield "cores", str(os.cpu_count())
    if "SC_PHYS_PAGES" in os.sysconf_names:
        yield "memory", f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / (1 << 30):.0f} GiB"
