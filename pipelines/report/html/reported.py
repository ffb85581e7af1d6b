"""The results of one run, read off the workspace: which there are, what they were made of, SQL over their rows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from datakit.catalog.lineage import Lineage
from datakit.catalog.sql_text import name
from datakit.catalog.workspace import Entry, Workspace
from datakit.duck.child import SqlProcess
from datakit.report import Measure
from datakit.trace.scans import asked, source
from pipelines.report.html.record import RunRecord
from schemas.rows.reports import REPORTS
from schemas.run_layout import RECORDS_END


class ReportedRun:
    """The run that `record` is of, in its workspace; `process` answers SQL over what lies there."""

    def __init__(self, workspace: Workspace, record: RunRecord, process: SqlProcess) -> None:
        self.workspace, self.record, self._process = workspace, record, process
        self.lineage = Lineage(workspace.entries)
        self._index = {entry.place: number for number, entry in enumerate(workspace.entries)}

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """All results of the run, each behind what it was made of."""
        chosen = {self._index[place] for place in self.record.results if place in self._index}
        chosen |= {
            self._index[records] for place in self.record.results if (records := f"{place}{RECORDS_END}") in self._index
        }
        return tuple(self.workspace.entries[one] for one in self.lineage.ordered(chosen))

    @property
    def results(self) -> list[Entry]:
        """All but records of trainings."""
        return [one for one in self.entries if not one.place.endswith(RECORDS_END)]

    @property
    def datasets(self) -> list[Entry]:
        """Results that hold rows, figures of evaluations among them."""
        return [one for one in self.results if one.made.kind == "dataset"]

    @property
    def checkpoints(self) -> list[Entry]:
        """Results that are weights, whether a training made them or they came from outside."""
        return [one for one in self.entries if one.made.kind == "checkpoint"]

    @property
    def evaluations(self) -> list[tuple[Entry, Entry]]:
        """What the run is judged by, each with its figures, in the order of the graph."""
        return [
            (above, entry)
            for entry in self.datasets
            if entry.made.op == Measure.name and entry.made.rows_kind == REPORTS.name
            for above in self.parents(entry)[:1]
        ]

    def parents(self, entry: Entry) -> list[Entry]:
        """What `entry` was made of, as far as it is of this run."""
        own = {one.place for one in self.entries}
        return [one for one in self.lineage.parents(entry) if one.place in own]

    def direct(self, entry: Entry) -> list[int]:
        """The indices of all that `entry` was made of directly, models that answered or scored among them."""
        return self.lineage.direct[self._index[entry.place]]

    def above(self, entry: Entry) -> Iterator[Entry]:
        """`entry` and all rows that it was made of, the nearest first."""
        waiting, seen = [entry], set[str]()
        while waiting:
            one = waiting.pop(0)
            if one.place not in seen and one.made.kind == "dataset":
                seen.add(one.place)
                yield one
                waiting += self.parents(one)

    def ask(self, text: str) -> list[dict[str, Any]]:
        """The rows that a query of ours answers; `DataError` where files are not what their manifests say."""
        rows: list[dict[str, Any]] = asked(self._process, text).to_pylist()
        return rows

    @staticmethod
    def rows_of(entry: Entry) -> str:
        """The rows of `entry`, for FROM."""
        if not entry.made.files:
            columns = ", ".join(f"NULL::{one.kind} AS {name(one.name)}" for one in entry.made.columns)
            return f"(SELECT {columns} WHERE false)"
        return source([os.path.join(entry.root, entry.place, path) for path, *_ in entry.made.files])


def columns_of(entry: Entry) -> dict[str, str]:
    """The types of an entry's columns by name."""
    return {one.name: one.kind for one in entry.made.columns}


def short(entries: Sequence[Entry], entry: Entry) -> str:
    """The name of `entry` without the folders that all of `entries` share."""
    folders = [one.name.split("/")[:-1] for one in entries]
    same = [len({*parts}) == 1 for parts in zip(*folders, strict=False)]
    shared = same.index(False) if False in same else len(same)
    return "/".join(entry.name.split("/")[shared:])
