"""What everything was made of: a line for each result behind what it stands on, with arcs from one to the other."""

from __future__ import annotations

from pipelines.report.html import charts
from pipelines.report.html.blocks import Ancestry, Section
from pipelines.report.html.reported import ReportedRun, short

_WIDTH, _MOST = 150, 240


def ancestry(run: ReportedRun) -> Section | None:
    """The results of the run and the arcs between them; of very many the last."""
    entries = run.results[-_MOST:]
    if not entries:
        return None
    line = {entry.place: number for number, entry in enumerate(entries)}
    above = {entry.place: [run.workspace.entries[one] for one in dict.fromkeys(run.direct(entry))] for entry in entries}
    edges = [
        (line[one.place], line[entry.place])
        for entry in entries
        for one in above[entry.place]
        if one.place in line and line[one.place] < line[entry.place]
    ]
    lines = tuple(
        (short(entries, one), one.made.op, f"{one.rows:,}" if one.made.kind == "dataset" else one.made.kind)
        for one in entries
    )
    made_of = tuple(
        ", ".join(short(entries, one) for one in above[entry.place] if one.place in line) or "outside"
        for entry in entries
    )
    block = Ancestry(
        caption="Every result below what it was made of",
        lines=lines,
        made_of=made_of,
        spec=charts.arcs(len(entries), edges, _WIDTH),
    )
    left_out = len(run.results) - len(entries)
    lead = "An arc goes from a result to each that was made of it: rows, or a model that answered, scored or learnt on."
    return Section(title="Lineage", lead=f"{lead} {left_out} before these." if left_out else lead, blocks=(block,))
