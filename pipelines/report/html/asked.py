"""What servers were asked for the results of a run: requests, tokens, what they cost, how long they took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from datakit.columns.usage import in_words, taken_of
from pipelines.report.html.blocks import Grid, Section
from pipelines.report.html.reported import ReportedRun, short

_STAGES = 100
_COLUMNS = {
    "requests": ",.0f",
    "prompt_tokens": ",.0f",
    "completion_tokens": ",.0f",
    "cost": ",.6g",
}


def asked(run: ReportedRun) -> Section | None:
    """Sums over the run, and a line for each of its stages whose rows a server answered; a dash is what nobody said."""
    taken = [(one, sums) for one in run.datasets if (sums := taken_of(one.made.counts)).get("requests")]
    if not taken:
        return None
    whole = Counter[str]()
    for _, sums in taken:
        whole.update(sums)
    rows = tuple((short(run.datasets, one), *_shown(sums)) for one, sums in taken[-_STAGES:])
    columns = ("stage", "requests", "tokens of prompts", "tokens of answers", "cost", "s a request")
    lead = in_words(whole)
    grid = Grid(caption="Stages whose rows servers answered", columns=columns, rows=rows)
    return Section(title="Servers", lead=f"{lead[0].upper()}{lead[1:]}.", blocks=(grid,))


def _shown(sums: Mapping[str, float]) -> tuple[str, ...]:
    seconds = f"{sums['seconds'] / sums['timed']:.3g}" if sums.get("timed") else "-"
    return (*(format(sums[name], form) if name in sums else "-" for name, form in _COLUMNS.items()), seconds)
