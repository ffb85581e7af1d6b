"""What became of the rows on their way to each training, and which were left out, for which reasons."""

from __future__ import annotations

from collections.abc import Iterator

from datakit.catalog.workspace import Entry
from pipelines.report.html import charts
from pipelines.report.html.blocks import Block, Chart, Charts, Grid, Section
from pipelines.report.html.reported import ReportedRun, short
from schemas import TOKENIZERS

_TRAININGS, _STAGES = 8, 100


def funnel(run: ReportedRun) -> Section | None:
    """A chart for each of the last trainings, and a table of the stages that left rows out."""
    drawn = [chart for one in run.checkpoints if (chart := _chart(run, one))]
    blocks: list[Block] = [Charts(charts=tuple(drawn[-_TRAININGS:]))] if drawn else []
    lossy = [entry for entry in run.datasets if entry.made.rejected]
    if lossy:
        rows = tuple(
            (short(run.datasets, one), one.made.op, f"{one.rows:,}", f"{_left_out(one):,}", _reasons(one))
            for one in lossy[-_STAGES:]
        )
        columns = ("stage", "operation", "rows", "left out", "why")
        blocks.append(Grid(caption="Rows that were left out", columns=columns, rows=rows))
    lead = "From rows that were read or drawn to those that each training learnt from; what keeps all is skipped."
    return Section(title="Rows", lead=lead, blocks=tuple(blocks)) if blocks else None


def _left_out(entry: Entry) -> int:
    return sum(rows for _, rows, _ in entry.made.rejected)


def _reasons(entry: Entry) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in entry.made.reasons.items())


def _chart(run: ReportedRun, checkpoint: Entry) -> Chart | None:
    way = list(_way(run, checkpoint))[::-1]
    shown = [one for number, one in enumerate(way) if number == 0 or one.rows != way[number - 1].rows]
    if way and shown[-1] is not way[-1]:
        shown.append(way[-1])
    if len({one.rows for one in shown}) < 2:
        return None
    stages = [(f"{number}. {one.stage}", one) for number, one in enumerate(shown, 1)]
    name = short(run.entries, checkpoint)
    rows = tuple((stage, one.made.op, f"{one.rows:,}") for stage, one in stages)
    grid = Grid(caption=name, columns=("stage", "operation", "rows"), rows=rows, folded=True)
    return Chart(
        caption=f"to {name}", spec=charts.bars([(stage, one.rows) for stage, one in stages], ",", "rows"), grid=grid
    )


def _way(run: ReportedRun, checkpoint: Entry) -> Iterator[Entry]:
    """The rows that were trained on, and of all that each was made of what has the longest way behind it."""
    above = run.lineage.inputs(checkpoint, "data")
    seen: set[str] = set()
    while above:
        one = max(above, key=lambda entry: sum(1 for _ in run.above(entry)))
        if one.place in seen:
            return
        seen.add(one.place)
        yield one
        above = [
            each
            for each in run.parents(one)
            if each.made.kind == "dataset" and each.made.rows_kind not in ("", TOKENIZERS.name)
        ]
