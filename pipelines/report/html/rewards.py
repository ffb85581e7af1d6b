"""How rewards are spread: of held-out answers before and after, of what a filter was given and what it kept, of the
chosen and the other answers of pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from datakit.catalog.sql_text import name
from datakit.catalog.workspace import Entry
from pipelines.report.html import charts
from pipelines.report.html.blocks import Chart, Charts, Grid, Section
from pipelines.report.html.reported import ReportedRun, columns_of

Series = tuple[str, Entry, str]
"""A distribution: its name, and the column of a dataset that it is of."""

_BINS = 30
_SHOWN = 12
"""Charts of one page, at most."""
_COLUMNS = ("score", "reward")
_SIDES = (
    ("chosen_reward", "rejected_reward"),
    ("reward_chosen", "reward_rejected"),
    ("reward_wanted", "reward_unwanted"),
)
_QUANTILES = (0.1, 0.5, 0.9)


def rewards(run: ReportedRun) -> Section | None:
    """A histogram for each comparison that the run has rows for."""
    drawn = [chart for title, series in _comparisons(run) if (chart := _histogram(run, title, series))]
    lead = "A bar is the share of a distribution's rows; what lies beyond its 0.2 % and 99.8 % quantiles is drawn in."
    return Section(title="Rewards", lead=lead, blocks=(Charts(charts=tuple(drawn[:_SHOWN])),)) if drawn else None


def _comparisons(run: ReportedRun) -> Iterator[tuple[str, list[Series]]]:
    judged = [rows for rows, _ in run.evaluations if "reward" in columns_of(rows) and "response" in columns_of(rows)]
    if judged:
        ends = [judged[0], judged[-1]] if len(judged) > 1 else judged
        named = list(zip(("before", "after"), ends, strict=False))
        yield "held-out answers", [(when, rows, "reward") for when, rows in named]
    for above in run.datasets:
        column = next((one for one in _COLUMNS if columns_of(above).get(one) == "DOUBLE"), "")
        kept = [one for one in run.datasets if column and _filters(one) and above in run.parents(one)]
        if kept:
            series = [("all", above, column)]
            kept.sort(key=lambda one: one.step or 0)
            series += [(_called(one), one, column) for one in kept if column in columns_of(one)]
            where = f", iteration {above.iteration}" if above.iteration else ""
            yield f"{above.stage}{where}: all, and what was kept", series[: charts.SERIES]
    for pairs in run.datasets:
        sides = next((one for one in _SIDES if {*one} <= {*columns_of(pairs)}), None)
        if sides and not any({*sides} <= {*columns_of(above)} for above in run.parents(pairs)):
            where = f", iteration {pairs.iteration}" if pairs.iteration else ""
            yield f"{pairs.stage}{where}: both sides", [(_side(one), pairs, one) for one in sides]


def _filters(entry: Entry) -> bool:
    return entry.made.op.startswith("filter.")


def _called(entry: Entry) -> str:
    return f"{entry.stage}, step {entry.step}" if entry.step else entry.stage


def _side(column: str) -> str:
    return column.removesuffix("_reward").removeprefix("reward_")


def _histogram(run: ReportedRun, title: str, series: Sequence[Series]) -> Chart | None:
    """The chart, and a table of quantiles; None where there is no spread, or two values alone."""
    parts = " UNION ALL ".join(
        f"SELECT {number} AS s, CAST({name(column)} AS DOUBLE) AS v FROM {run.rows_of(entry)}"
        for number, (_, entry, column) in enumerate(series)
    )
    finite = f"WITH finite AS (SELECT * FROM ({parts}) WHERE isfinite(v))"
    [ends] = run.ask(
        f"{finite} SELECT quantile_cont(v, 0.002) AS low, quantile_cont(v, 0.998) AS high, "
        "approx_count_distinct(v) AS several FROM finite"
    )
    low, high = ends["low"], ends["high"]
    if low is None or low >= high or ends["several"] <= 2:
        return None
    width = (high - low) / _BINS
    counted = run.ask(
        f"{finite} SELECT s, least({_BINS - 1}, greatest(0, floor((v - {low!r}) / {width!r})))::INTEGER AS bin, "
        "count(*) AS rows FROM finite GROUP BY ALL ORDER BY ALL"
    )
    totals = [sum(row["rows"] for row in counted if row["s"] == number) for number in range(len(series))]
    bins = [
        {"series": series[row["s"]][0], "low": low + row["bin"] * width, "high": low + (row["bin"] + 1) * width,
         "share": row["rows"] / totals[row["s"]]}
        for row in counted
    ]  # fmt: skip
    listed = ", ".join(map(str, _QUANTILES))
    spread = run.ask(
        f"{finite} SELECT s, count(*) AS rows, avg(v) AS mean, quantile_cont(v, [{listed}]) AS q "
        "FROM finite GROUP BY s ORDER BY s"
    )
    grid = Grid(
        caption=title,
        columns=("", "rows", "mean", *(f"{quantile:.0%}" for quantile in _QUANTILES)),
        rows=tuple(
            (series[row["s"]][0], f"{row['rows']:,}", f"{row['mean']:.3f}", *(f"{one:.3f}" for one in row["q"]))
            for row in spread
        ),
        folded=True,
    )
    return Chart(caption=title, spec=charts.histogram(bins, "reward"), grid=grid)
