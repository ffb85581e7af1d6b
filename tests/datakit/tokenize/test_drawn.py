"""tokenize.drawn: ids, masks and numbers by hand; that a model agrees with them: tests/pipelines/test_drawn.py."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from datakit.op import Context, LabelResult
from datakit.run.facts import tokenizers_after
from datakit.tokenize import Drawn
from schemas import SAMPLES, Schema
from schemas.errors import ConfigError
from tests.datakit.fakes import Example


def samples(*rows: tuple[list[int], list[int], list[float]]) -> pa.Table:
    columns = ([row[place] for row in rows] for place in range(3))
    ids = [f"s{number}" for number in range(len(rows))]
    names = ("sample_id", "prompt_ids", "response_ids", "logprobs")
    fields = [SAMPLES[name].field for name in names]
    return pa.table(dict(zip(names, (ids, *columns), strict=True)), schema=pa.schema(fields))


ROWS = samples(([5, 6, 7], [8, 9], [-0.5, -1.5]), ([4], [3], [-2.0]), ([], [1, 2], [-1.0, -3.0]), ([9, 9], [9], [0.0]))
BAD = samples(([5], [], []), ([], [7], [-1.0]), ([5], [6, 7], [-1.0]), ([5], [6], [-0.25]), ([], [], []))
EXAMPLES = [Example(Drawn(), (ROWS,)), Example(Drawn(columns=()), (BAD,))]


def test_prompt_and_answer_stand_in_one_row_with_numbers_along_the_answer() -> None:
    columns: Any = Drawn().label(ROWS, Context())
    assert {name: column.to_pylist() for name, column in columns.items()} == {
        "input_ids": [[5, 6, 7, 8, 9], [4, 3], [1, 2], [9, 9, 9]],
        "loss_mask": [[0, 0, 0, 1, 1], [0, 1], [1, 1], [0, 0, 1]],
        "drawn_logprobs": [[0, 0, 0, -0.5, -1.5], [0, -2.0], [-1.0, -3.0], [0, 0, 0]],
    }


def test_rows_of_which_nothing_can_be_learnt_go_with_their_reason() -> None:
    made = Drawn().label(BAD, Context())
    assert isinstance(made, LabelResult) and isinstance(made.kept.reason, pa.Array)
    assert made.kept.keep.to_pylist() == [False, False, False, True, False]
    assert made.kept.reason.to_pylist()[:3] == ["no-trained-token", "no-trained-token", "column-length"]
    assert made.columns["drawn_logprobs"].to_pylist()[3] == [0, -0.25]


def test_a_column_named_twice_is_refused() -> None:
    for columns in ((("logprobs", "input_ids"),), (("logprobs", "a"), ("other", "a"))):
        with pytest.raises(ConfigError, match="names a new column twice"):
            Drawn(columns=columns)


def test_the_tokenizer_of_the_rows_is_that_of_the_policy_whatever_else_is_in_them() -> None:
    """A reward model's `input_ids`, which stood there before, are replaced, and its tokenizer with them."""
    rows = Schema.of_arrow(ROWS.append_column("input_ids", ROWS["prompt_ids"]).schema)
    before = {"prompt_ids": ("policy",), "response_ids": ("policy",), "input_ids": ("scorer",)}
    after = tokenizers_after(Drawn(), [rows], [before], Drawn().gives(rows), "")
    assert after == dict.fromkeys(("prompt_ids", "response_ids", "input_ids"), ("policy",))
