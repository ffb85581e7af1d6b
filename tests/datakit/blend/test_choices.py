"""blend.choices: which rows come of a question, and what each holds of its choice."""

from __future__ import annotations

import pyarrow as pa

from datakit.blend import Choices
from datakit.op import Context
from schemas import CHOICES
from tests.datakit.fakes import Example

QUESTIONS = CHOICES.adding().conform(
    pa.table(
        {
            "prompt_id": ["sum", "sky"],
            "messages": [[{"role": "user", "content": text}] for text in ("2 + 2?", "Which colour?")],
            "choices": [["3", "4", "five"], ["red", "blue"]],
            "right": [[False, True, False], [True, True]],
            "best": pa.array([1, 1], pa.int32()),
            "scores": [[0.5, None, -1.0], None],
        }
    )
)
EXAMPLES = [Example(Choices(), (QUESTIONS,)), Example(Choices(lead=" "), (QUESTIONS,))]


def test_every_choice_is_a_row():
    op = Choices(lead=" ")
    rows = op.gives(CHOICES).check(op.gather(QUESTIONS, Context()).rows)
    assert rows["sample_id"].to_pylist() == ["sum-0", "sum-1", "sum-2", "sky-0", "sky-1"]
    assert rows["response"].to_pylist() == [" 3", " 4", " five", " red", " blue"]
    assert rows["characters"].to_pylist() == [1, 1, 4, 3, 4], "without the blank in front"
    assert rows["is_right"].to_pylist() == [False, True, False, True, True]
    assert rows["is_best"].to_pylist() == [False, True, False, False, True]
    assert rows["offered"].to_pylist() == [3, 3, 3, 2, 2] and rows["choice"].to_pylist() == [0, 1, 2, 0, 1]
    assert rows["choice_score"].to_pylist() == [0.5, None, -1.0, None, None]
    assert [turns[0]["content"] for turns in rows["messages"].to_pylist()] == ["2 + 2?"] * 3 + ["Which colour?"] * 2
    assert not {"choices", "right", "best", "scores"} & {*rows.column_names}


def test_other_columns_go_along():
    rows = QUESTIONS.append_column("subject", pa.array(["maths", "nature"]))
    assert Choices().gather(rows, Context()).rows["subject"].to_pylist() == ["maths"] * 3 + ["nature"] * 2
