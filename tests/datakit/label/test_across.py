"""label.across: a teacher's numbers along another vocabulary's tokens, by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from datakit.apply import apply
from datakit.label import Across
from datakit.op import Context
from schemas import Column, Schema
from tests.datakit.fakes import Example

KIND = Across().takes.adding(Column("sample_id", pa.string(), "the row's id"))
RICH = Schema("both", 1, KIND.columns, ("sample_id",))

ROWS = RICH.conform(
    pa.table(
        {
            "sample_id": ["a", "b", "c"],
            "own_text": ["the end", "no", "yes"],
            "own_starts": [[-1, 0, 1, 2, 3, 4, -1], [0, 1], [0]],
            "theirs_text": ["the end", None, "yes!"],
            "theirs_starts": [[-1, 0, 3, -1], None, [0]],
            "theirs_logprobs": [
                [[0.0, 0.0], [-0.1, -3.0], [-0.5, -1.0], [-0.2, -2.0]],
                None,
                [[-0.3, -1.5]],
            ],
        }
    )
)
EXAMPLES = [Example(Across(), (ROWS,))]


def test_numbers_stand_where_both_begin_a_token_and_rows_without_go_with_a_reason() -> None:
    made = Across().label(ROWS, Context())
    assert made.kept.keep.to_pylist() == [True, False, False]
    assert made.kept.reason.to_pylist()[1:] == ["no-teacher", "other-text"]
    column = made.columns["teacher_logprobs"]
    expected = [[0, 0], [-0.1, -3], [0, 0], [0, 0], [-0.5, -1], [0, 0], [0, 0]]
    np.testing.assert_allclose(column[0].as_py(), expected, rtol=1e-6)
    assert [len(row) for row in column.to_pylist()] == [7, 2, 1]
    assert Across().counts(ROWS.slice(0, 1), Context()) == {"placed": 5.0, "taught": 2.0}


def test_the_same_vocabulary_gives_the_same_numbers(put, tmp_path) -> None:
    places = [[-1, 0, 4], [0, 1]]
    numbers = [[[0.0, 0.0], [-0.25, -2.0], [-0.5, -1.0]], [[-0.75, -1.0], [-0.125, -3.0]]]
    table = {"sample_id": ["a", "b"], "own_text": ["word s", "no"], "own_starts": places}
    table |= {"theirs_text": ["word s", "no"], "theirs_starts": places, "theirs_logprobs": numbers}
    out = apply(Across(), put(RICH.conform(pa.table(table)), schema=RICH), str(tmp_path / "out"))
    assert out.read()["teacher_logprobs"].to_pylist() == numbers
