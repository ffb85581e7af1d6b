"""Answers side by side: of the first policy and the last one to the same prompts; of pairs both sides; else each alone.

Rows are a sample that the ids decide, the same at every look; long texts are cut where they are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from datakit.catalog.sql_text import name
from datakit.catalog.workspace import Entry
from pipelines.report.html.blocks import Answers, Compared, Section, Side
from pipelines.report.html.reported import ReportedRun, columns_of

LETTERS = 1500
"""Of a text, what is shown."""

_TURNS = 6
_SIDES = ("chosen", "rejected")
_TEXTS = ({"messages", "response"}, {"messages", *_SIDES})
_NUMBERS = ("DOUBLE", "FLOAT")

Numbers = Mapping[str, str]
"""Columns of numbers by the name under which they are shown."""


def answers(run: ReportedRun, rows: int) -> Section | None:
    """At most `rows` of them; None where the run has none to show."""
    compared, caption = _compared(run, rows)
    if not compared:
        return None
    return Section(title="Answers", lead=caption, blocks=(Answers(caption=caption, rows=tuple(compared)),))


def _compared(run: ReportedRun, rows: int) -> tuple[list[Compared], str]:
    judged = [entry for entry, _ in run.evaluations if {"messages", "response", "prompt_id"} <= {*columns_of(entry)}]
    if len(judged) > 1:
        first, last = judged[0], judged[-1]
        caption = "Held-out prompts, answered before and after: what gained most, what lost most, and some by lot."
        return list(_before_and_after(run, first, last, rows)), caption
    for judged_rows, _ in run.evaluations[::-1] or [(one, one) for one in reversed(run.datasets)]:
        texts = next((one for one in run.above(judged_rows) if _same_rows(one, judged_rows)), None)
        if texts is not None:
            return list(_alone(run, texts, judged_rows, rows)), "Held-out rows, with what was measured of each."
    return [], ""


def _same_rows(texts: Entry, judged: Entry) -> bool:
    key = judged.made.row_key
    columns = {*columns_of(texts)}
    return len(key) == 1 and key[0] in columns and any(one <= columns for one in _TEXTS)


def _numbers(entry: Entry) -> list[str]:
    """The columns that the run is judged by."""
    given = entry.made.params.get("columns")
    kinds = columns_of(entry)
    known = [one for one in ("reward", "correct", "score") if kinds.get(one) in _NUMBERS]
    return [one for one in given if kinds.get(one) in _NUMBERS] if isinstance(given, list) else known


def _before_and_after(run: ReportedRun, first: Entry, last: Entry, rows: int) -> Iterator[Compared]:
    numbers = [one for one in _numbers(last) if one in columns_of(first)]
    of_one = ["prompt_id", f"{_cut('response')} AS response", "length(response) AS letters", *map(name, numbers)]
    gain = f"b.{name(numbers[0])} - a.{name(numbers[0])}" if numbers else "0.0"
    chosen = ", ".join(
        f"any_value({side}.{name(one)}) AS {name(f'{side}_{one}')}"
        for side in "ab"
        for one in ("response", "letters", *numbers)
    )
    query = f"""
WITH a AS (SELECT {", ".join(of_one)}, {_turns()} FROM {run.rows_of(first)}),
b AS (SELECT {", ".join(of_one)} FROM {run.rows_of(last)}),
joined AS (
    SELECT prompt_id AS id, any_value(turns) AS turns, any_value(count) AS count, any_value({gain}) AS gain,
        {chosen}
    FROM a JOIN b USING (prompt_id) GROUP BY prompt_id),
ranked AS (
    SELECT *, row_number() OVER (ORDER BY gain DESC NULLS LAST, id) AS best,
        row_number() OVER (ORDER BY gain NULLS LAST, id) AS worst, row_number() OVER (ORDER BY md5(id)) AS lot
    FROM joined)
SELECT * FROM (SELECT * FROM ranked ORDER BY least(best, worst, lot), id LIMIT {rows}) ORDER BY best"""
    for row in run.ask(query):
        sides = tuple(
            Side(
                name=when,
                text=_whole(row[f"{side}_response"], row[f"{side}_letters"]),
                numbers=tuple((one, _number(row[f"{side}_{one}"])) for one in numbers),
            )
            for side, when in (("a", "before"), ("b", "after"))
        )
        yield Compared(
            id=row["id"], turns=_read_turns(row), sides=sides, verdict=_verdict(row["gain"] if numbers else None)
        )


def _verdict(gain: float | None) -> str:
    if gain is None:
        return ""
    return "the same" if gain == 0 else f"{'better' if gain > 0 else 'worse'} by {abs(gain):.3g}"


def _alone(run: ReportedRun, texts: Entry, judged: Entry, rows: int) -> Iterator[Compared]:
    """The rows of `texts` with the numbers of `judged`, which has the same key."""
    key = name(judged.made.row_key[0])
    shown = _SIDES if {*_SIDES} <= {*columns_of(texts)} else ("response",)
    numbers = [] if judged is texts else [one for one, kind in columns_of(judged).items() if kind in _NUMBERS]
    given = [f"{_cut(one)} AS {one}, length({one}) AS {one}_letters" for one in shown]
    joined = f" JOIN {run.rows_of(judged)} AS judged USING ({key})" if numbers else ""
    measured = "".join(f", judged.{name(one)} AS {name(f'number {one}')}" for one in numbers)
    query = f"""
WITH texts AS (SELECT {key}, {_turns()}, {", ".join(given)} FROM {run.rows_of(texts)} ORDER BY md5({key}) LIMIT {rows})
SELECT texts.*{measured} FROM texts{joined} ORDER BY {key}"""
    for row in run.ask(query):
        scores = {one: _number(row[f"number {one}"]) for one in numbers}
        sides = tuple(_side(one, row, scores, alone=len(shown) == 1) for one in shown)
        rest = [f"{one} {text}" for one, text in scores.items() if len(shown) > 1 and not one.endswith(shown)]
        yield Compared(id=row[judged.made.row_key[0]], turns=_read_turns(row), sides=sides, verdict=", ".join(rest))


def _side(column: str, row: Mapping[str, Any], numbers: Numbers, *, alone: bool) -> Side:
    own = [
        (one.removesuffix(f"_{column}") if not alone else one, text)
        for one, text in numbers.items()
        if alone or one.endswith(f"_{column}")
    ]
    text = _whole(row[column], row[f"{column}_letters"])
    return Side(name="answer" if alone else column, text=text, numbers=tuple(own))


def _cut(column: str) -> str:
    return f"left({name(column)}, {LETTERS})"


def _turns() -> str:
    """The last turns of the question, and how many there are."""
    cut = f"left(turn.content, {LETTERS})"
    turns = f"list_transform(messages[-{_TURNS}:], lambda turn: [turn.role, {cut}, length(turn.content)::VARCHAR])"
    return f"{turns} AS turns, len(messages) AS count"


def _read_turns(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    left_out = row["count"] - len(row["turns"])
    head = [("", f"{left_out} earlier turns")] if left_out > 0 else []
    return (*head, *((role, _whole(text, int(letters))) for role, text, letters in row["turns"]))


def _whole(text: str | None, letters: int | None) -> str:
    """`text`, with how long it was where it was cut."""
    if text is None or letters is None:
        return "-"
    return text if letters <= len(text) else f"{text} … ({letters:,} characters)"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
