"""What was asked and what came out: a paragraph, and the figures that the run changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.report.figures import Change
from pipelines.report.html.reported import ReportedRun
from schemas.errors import counted

_MOST = 4
_UNITS = ((3600, "h"), (60, "min"))


def headline(run: ReportedRun) -> Sequence[Change]:
    """The changes that stand at the top of the page."""
    return run.record.changes[:_MOST]


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
