"""template.wording: the question in other words, letters, and what stays."""

from __future__ import annotations

import pyarrow as pa
import pytest

from datakit.op import Context
from datakit.template import Wording
from schemas import MESSAGES
from schemas.errors import ConfigError
from tests.datakit.blend.test_choices import QUESTIONS
from tests.datakit.fakes import Example

EXAMPLES = [
    Example(Wording(text="Q: {question}\nA:"), (QUESTIONS,)),
    Example(Wording(text="{question}\n{choices}\nAnswer:", letters=True), (QUESTIONS,)),
]


def contents(turns: pa.Array) -> list[list[str]]:
    return [[turn["content"] for turn in row] for row in turns.to_pylist()]


def test_choices_stand_behind_their_letters():
    made = Wording(text="{question}\n{choices}\nAnswer:", letters=True).label(QUESTIONS, Context())
    assert contents(made.columns["messages"]) == [
        ["2 + 2?\nA. 3\nB. 4\nC. five\nAnswer:"],
        ["Which colour?\nA. red\nB. blue\nAnswer:"],
    ]
    assert made.columns["choices"].to_pylist() == [["A", "B", "C"], ["A", "B"]]


def test_the_last_turn_alone_is_worded_and_braces_of_a_question_stay():
    turns = [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "{choices} {x}?"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
    ]
    rows = pa.table({"messages": pa.array(turns, MESSAGES)})
    made = Wording(text="Q: {question} {y}\nA:").label(rows, Context())
    assert contents(made.columns["messages"]) == [
        ["Be brief.", "Q: {choices} {x}? {y}\nA:"],
        ["a", "b", "Q: c {y}\nA:"],
    ]
    assert [turn["role"] for turn in made.columns["messages"].to_pylist()[1]] == ["user", "assistant", "user"]


def test_more_choices_than_letters_are_set_aside():
    rows = pa.table({"messages": QUESTIONS["messages"], "choices": [[str(n) for n in range(27)], ["a", "b"]]})
    made = Wording(letters=True).label(rows, Context())
    assert made.kept.keep.to_pylist() == [False, True] and made.kept.value.to_pylist() == [27.0, 2.0]


def test_a_wording_says_where_the_question_stands():
    with pytest.raises(ConfigError, match="where the question stands"):
        Wording(text="{choices}")
