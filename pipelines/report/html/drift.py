"""How what a run is judged by changes from one evaluation to the next: rewards, lengths, how unlike answers are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from datakit.catalog.workspace import Entry
from pipelines.report.html import charts
from pipelines.report.html.blocks import Chart, Charts, Grid, Section
from pipelines.report.html.reported import ReportedRun, columns_of
from schemas.rows.samples import CUT

_MEAN = ".mean"
_NAMES = {"correct": "right answers (gold)", "reward": "mean reward", "response_ids.length": "tokens of an answer"}
_KL = "KL to the first policy in nats"
_SHARES = (
    "right answers (gold)", "different answers", "answers cut at the limit", "distinct words",
    "distinct pairs of words",
)  # fmt: skip
_WORDS = r"regexp_extract_all(lower(response), '[\p{L}\p{M}\p{N}]+')"
"""The words of an answer, as `label.distinct_n` has them."""
_GRAMS = {"distinct_1": "words", "distinct_2": "list_zip(words, words[2:], true)"}
_DISTINCT_N = {"distinct_1": "distinct words", "distinct_2": "distinct pairs of words"}
"""Runs of n words in SQL over the words of an answer, and what the share of different ones is called."""

_OF_ROWS = {
    "letters": ("letters of an answer", "avg(length(response))"),
    "different": ("different answers", "count(DISTINCT response) / count(*)"),
    "cut": ("answers cut at the limit", f"avg((finish_reason = '{CUT}')::INTEGER)"),
    "correlation": ("correlation of reward and length", "corr(reward, length(response))"),
}


def drift(run: ReportedRun) -> Section | None:
    """A line for each figure over all evaluations of answers; None where there are not two of them."""
    judged = [(rows, figures) for rows, figures in run.evaluations if "response" in columns_of(rows)]
    if len(judged) < 2:
        return None
    names = [_named(rows, number, len(judged)) for number, (rows, _) in enumerate(judged)]
    far = {rows.iteration: _means(run, figures) for rows, figures in run.evaluations if "kl" in columns_of(rows)}
    values = [{**dict(_figures(run, *one)), **_divergence(far, one[0].iteration)} for one in judged]
    measured = list(dict.fromkeys(name for one in values for name in one))
    drawn = [chart for figure in measured if (chart := _chart(figure, names, [one.get(figure) for one in values]))]
    rows = tuple((figure, *(_shown(figure, one.get(figure)) for one in values)) for figure in measured)
    grid = Grid(caption="All figures, those that stay the same too", columns=("", *names), rows=rows)
    lead = (
        "Of answers to held-out prompts. Answers that grow longer or more alike while rewards rise are learnt for the "
        "reward and not for the task; a reward that rises while right answers fall is one that is gamed."
    )
    return Section(title="Drift", lead=lead, blocks=(Charts(charts=tuple(drawn)), grid))


def _chart(figure: str, names: Sequence[str], values: Sequence[float | None]) -> Chart | None:
    """The line of a figure; None where it stays the same."""
    known = [(name, value) for name, value in zip(names, values, strict=True) if value is not None]
    if len({value for _, value in known}) < 2:
        return None
    points = [{"series": figure, "x": name, "y": value} for name, value in known]
    listed = tuple((name, _shown(figure, value)) for name, value in known)
    grid = Grid(caption=figure, columns=("evaluation", figure), rows=listed, folded=True)
    return Chart(
        caption=figure, spec=charts.lines(points, "evaluation", ordinal=True, share=figure in _SHARES), grid=grid
    )


def _shown(figure: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}" if figure in _SHARES else f"{value:.4g}"


def _named(rows: Entry, number: int, count: int) -> str:
    if rows.iteration is not None:
        return str(rows.iteration)
    return "first" if not number else "last" if number == count - 1 else str(number)


def _figures(run: ReportedRun, rows: Entry, figures: Entry) -> Iterator[tuple[str, float | None]]:
    for name, value in _means(run, figures).items():
        yield _NAMES.get(name, name), value
    columns = columns_of(rows)
    needs = {"cut": "finish_reason", "correlation": "reward"}
    chosen = {key: one for key, one in _OF_ROWS.items() if needs.get(key, "response") in columns}
    selected = ", ".join(f"{sql} AS {key}" for key, (_, sql) in chosen.items())
    [values] = run.ask(f"SELECT {selected} FROM {run.rows_of(rows)}")
    values |= _distinct(run, rows)
    for key, figure in [*((key, figure) for key, (figure, _) in chosen.items()), *_DISTINCT_N.items()]:
        value = values[key]
        yield figure, value if value is None or math.isfinite(value) else None


def _means(run: ReportedRun, figures: Entry) -> Mapping[str, float]:
    """The means of an evaluation by what they are of."""
    rows = run.ask(f"SELECT metric, value FROM {run.rows_of(figures)}")
    return {row["metric"].removesuffix(_MEAN): row["value"] for row in rows if row["metric"].endswith(_MEAN)}


def _divergence(far: Mapping[int | None, Mapping[str, float]], iteration: int | None) -> Mapping[str, float]:
    """How far the policy of an `iteration` is from the first one (no iteration: itself), where that was measured."""
    if not far:
        return {}
    measured = far.get(iteration, {}) if iteration is not None else {"kl": 0.0, "tokens": 1.0}
    if not measured.get("tokens"):
        return {}
    return {_KL: measured["kl"], f"{_KL}, by token": measured["kl"] / measured["tokens"]}


def _distinct(run: ReportedRun, rows: Entry) -> Mapping[str, float | None]:
    """Of all n-grams of words in all answers the share of different ones (Li et al. 2016, arXiv:1510.03055)."""
    grams = ", ".join(
        f"(SELECT count(DISTINCT gram) / nullif(count(*), 0) FROM (SELECT unnest({sql}) AS gram FROM split)) AS {key}"
        for key, sql in _GRAMS.items()
    )
    [shares] = run.ask(f"WITH split AS (SELECT {_WORDS} AS words FROM {run.rows_of(rows)}) SELECT {grams}")
    return shares
