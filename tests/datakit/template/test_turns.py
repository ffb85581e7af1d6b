"""template.turns: turns of columns before and behind those that are there; a text that is not there lets its row go."""

from __future__ import annotations

import pyarrow as pa
import pytest

from datakit.columns.conversations import of_rows
from datakit.op import Context
from datakit.template import Line, Turns
from schemas.errors import ConfigError
from tests.datakit.fakes import Example

FEW = (Line(role="user", content="{draft}?"), Line(role="assistant", content="shown"))
ASK = (Line(role="assistant", content="{draft}"), Line(role="user", content="By {rule}: {draft} {other thing} {{x}"))
TALKS = [
    [("user", "a")],
    [("system", "s"), ("user", "b"), ("assistant", "c"), ("user", "d")],
    [],
    [("user", "e")],
    [("user", "f")],
    [("user", "g")],
]
DRAFTS = ["one", "{rule} [[A]]", "three", " \n", None, "six"]
RULES = ["r1", "r2", "r3", "r4", "r5", None]


def rows() -> pa.Table:
    texts = {"draft": pa.array(DRAFTS), "rule": pa.array(RULES), "x": pa.array(["y"] * 6)}
    return pa.table({"messages": of_rows(TALKS), **texts})


EXAMPLES = [
    Example(op, (op.takes.conform(rows()),)) for op in (Turns(turns=ASK, before=FEW), Turns(before=FEW, into="whole"))
]


def written(op: Turns, table: pa.Table) -> list[list[tuple[str, str]]]:
    made = op.label(table, Context()).columns[op.into].to_pylist()
    return [[(turn["role"], turn["content"]) for turn in row] for row in made]


def test_the_turns_of_every_row() -> None:
    few = [("user", "{draft}?"), ("assistant", "shown")]
    made = written(Turns(turns=ASK, before=FEW), rows())
    own = [
        [("assistant", draft or ""), ("user", f"By {rule or ''}: {draft or ''} {{other thing}} {{y")]
        for draft, rule in zip(DRAFTS, RULES, strict=True)
    ]
    assert made[0] == [*few, *TALKS[0], *own[0]]
    assert made[1] == [TALKS[1][0], *few, *TALKS[1][1:], *own[1]], "a system turn stays in front"
    assert made[2] == [*few, *own[2]]
    assert written(Turns(before=FEW), rows())[1] == [TALKS[1][0], *few, *TALKS[1][1:]]
    assert written(Turns(turns=ASK), rows())[0] == [*TALKS[0], *own[0]]


def test_a_slice_of_rows_gives_the_same_turns() -> None:
    op = Turns(turns=ASK, before=FEW)
    assert written(op, rows().slice(1, 3)) == written(op, rows())[1:4]


def test_a_row_without_a_text_goes_and_says_which() -> None:
    kept = Turns(turns=ASK, before=FEW).label(rows(), Context()).kept
    assert kept.keep.to_pylist() == [True, True, True, False, False, False]
    assert kept.threshold.to_pylist() == [None, None, None, "draft", "draft", "rule"]
    assert kept.reason == "no-text"


def test_nothing_to_add_is_refused() -> None:
    with pytest.raises(ConfigError, match="no turn"):
        Turns()
