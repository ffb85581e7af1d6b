"""label.principle: a principle is the row's own, whatever stands beside it; every one comes as often as another."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

from datakit.constitution.principles import Principle
from datakit.label import DrawPrinciple
from datakit.op import Context
from tests.datakit.fakes import Example

FOUR = tuple(Principle(name=name, critique=f"c{name}", revision=f"r{name}", choice=f"j{name}") for name in "abcd")
OP = DrawPrinciple(principles=FOUR, texts=("critique", "revision", "choice"))
ROWS = pa.table({"prompt_id": [f"p{number}" for number in range(4000)]})
EXAMPLES = [Example(OP), Example(DrawPrinciple(draw=2))]


def drawn(op: DrawPrinciple = OP, rows: pa.Table = ROWS, seed: int = 7) -> list[str]:
    made = op.label(rows, Context(seed=seed))
    names: list[str] = made["principle"].to_pylist()
    for column, mark in (("critique_request", "c"), ("revision_request", "r"), ("criterion", "j")):
        assert made[column].to_pylist() == [mark + name for name in names]
    return names


def test_a_row_keeps_its_principle_wherever_it_stands() -> None:
    whole = dict(zip(ROWS["prompt_id"].to_pylist(), drawn(), strict=True))
    turned = ROWS.take(pa.array(range(3999, -1, -3)))
    assert drawn(rows=turned) == [whole[name] for name in turned["prompt_id"].to_pylist()]
    twice = pa.concat_tables([ROWS.slice(5, 1), ROWS.slice(5, 1)])
    assert drawn(rows=twice) == [whole["p5"]] * 2


def test_every_principle_comes_as_often_and_every_draw_is_another() -> None:
    """Of 4,000 rows each of four has 1,000 with a deviation of 27; of two draws a quarter agrees."""
    counts = Counter(drawn())
    assert {*counts} == {*"abcd"} and all(abs(count - 1000) < 140 for count in counts.values())
    for other in (drawn(seed=8), drawn(DrawPrinciple(principles=FOUR, texts=OP.texts, draw=2))):
        same = sum(one == two for one, two in zip(drawn(), other, strict=True))
        assert abs(same - 1000) < 140


@pytest.mark.parametrize("texts", [("critique",), ("choice",)])
def test_the_columns_are_those_that_are_asked_for(texts: tuple[str, ...]) -> None:
    op = DrawPrinciple.of({"texts": list(texts)})
    names = {"critique": "critique_request", "choice": "criterion"}
    assert isinstance(op, DrawPrinciple) and [one.name for one in op.adds] == ["principle", names[texts[0]]]
