"""What was asked and what came out: a paragraph, and the figures that the run changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.report.html.blocks import Grid
from pipelines.report.html.reported import ReportedRun
from schemas.errors import counted

_BEFORE, _AFTER, _BETWEEN = " before", " after", " -> "
_MOST = 4
_UNITS = ((3600, "h"), (60, "min"))


@dataclass(frozen=True)
class Change:
    """A figure before the run and after it."""

    name: str
    before: str
    after: str


def changes(tables: Sequence[Grid]) -> list[Change]:
    """The figures of which the `tables` have two: in columns `x before` and `x after`, or joined by an arrow in one
    cell. Of several rows the first one's before and the last one's after.
    """
    return [one for table in tables if table.rows for one in _changes(table) if "-" not in (one.before, one.after)]


def _changes(table: Grid) -> Iterator[Change]:
    first, last = (dict(zip(table.columns, row, strict=True)) for row in (table.rows[0], table.rows[-1]))
    for name in table.columns:
        base = name.removesuffix(_BEFORE)
        after = next((one for one in (base + _AFTER, _AFTER.strip()) if one in last), "")
        if name != base and after:
            yield Change(base, first[name], last[after])
        elif _BETWEEN in first[name] and _BETWEEN in last[name]:
            yield Change(name, first[name].split(_BETWEEN)[0], last[name].split(_BETWEEN)[-1])


def headline(run: ReportedRun) -> list[Change]:
    """The changes that stand at the top of the page."""
    return changes(run.record.tables)[:_MOST]


def paragraph(run: ReportedRun) -> str:
    """What was asked, what was made, what came of it."""
    return " ".join(_sentences(run))


def _sentences(run: ReportedRun) -> Iterator[str]:
    rows = sum(entry.rows for entry in run.datasets)
    seconds = sum(entry.made.seconds or 0.0 for entry in run.entries)
    trained = counted(len(run.checkpoints), "checkpoint")
    yield (
        f"{run.record.task} made {counted(len(run.datasets), 'dataset')} with {counted(rows, 'row')} in all and "
        f"{trained}, in {duration(seconds)} of work."
    )
    came = [f"{one.name} went from {one.before} to {one.after}" for one in headline(run)]
    if came:
        yield f"{came[0][0].upper()}{'; '.join(came)[1:]}."
    aside = sum(rows for entry in run.datasets for _, rows, _ in entry.made.rejected)
    if aside:
        yield f"{counted(aside, 'row')} were left out on the way, each with its reason."


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would take."""
    length, unit = next(((length, unit) for length, unit in _UNITS if seconds >= length), (1, "s"))
    return f"{seconds / length:.1f} {unit}"
