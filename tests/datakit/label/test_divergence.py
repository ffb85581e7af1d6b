"""label.divergence: KL and agreement of a model with a teacher's likeliest ids, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.label import Divergence
from schemas import TOKENS, Dataset, with_columns
from schemas.errors import DataError
from tests.datakit.fakes import Example, token_model

TAUGHT = TOKENS.adding(*(column for column in Divergence().takes.columns if column.name.startswith("teacher")))
"""Token rows with two ids of a teacher each."""


def taught(ids: list[list[list[int]]], logprobs: list[list[list[float]]]) -> pa.Table:
    """Rows whose tokens have these ids and log-probabilities; all tokens count but the second of the first row."""
    lengths = [len(row) for row in ids]
    masks = [[1, 0, *[1] * (length - 2)][:length] if row == 0 else [1] * length for row, length in enumerate(lengths)]
    columns = {"sample_id": list("abcdefgh")[: len(ids)], "input_ids": [list(range(n)) for n in lengths]}
    return TAUGHT.conform(pa.table({**columns, "loss_mask": masks, "teacher_ids": ids, "teacher_logprobs": logprobs}))


ROWS = taught([[[0, 0], [1, 2], [10, 0]], [[0, 0], [0, 10]]], [[[0, 0], [-1, -2], [-0.5, -1.5]], [[0, 0], [-1, -2]]])
EXAMPLES = [Example(Divergence(rows_per_chunk=3), (ROWS,), token_model())]


def kl(teacher: tuple[float, float], student: tuple[float, float]) -> float:
    """Of two distributions over two ids, from log-probabilities that need not sum to one."""
    p, q = ([math.exp(x) / sum(map(math.exp, pair)) for x in pair] for pair in (teacher, student))
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_divergence_and_agreement_are_those_of_the_counted_tokens(put, tmp_path):
    """The stand-in gives an id minus itself over 10: the third token's -1 and 0, the other row's second 0 and -1."""
    out = apply(Divergence(), put(ROWS), str(tmp_path / "out"), resources=token_model()).read()
    assert out["student_kl"].to_pylist() == pytest.approx([kl((-0.5, -1.5), (-1, 0)), kl((-1, -2), (0, -1))])
    assert out["student_agreement"].to_pylist() == [0.0, 1.0]
    assert kl((-1, -2), (0, -1)) == pytest.approx(0), "the same but for a constant"


def test_lists_of_different_lengths_are_refused(put, tmp_path):
    uneven = taught([[[0, 0], [1], [10, 0]]], [[[0, 0], [-1], [-0.5, -1.5]]])
    with pytest.raises(DataError, match="1 at one token and 2 at another"):
        apply(Divergence(), put(uneven), str(tmp_path / "out"), resources=token_model())


def test_teachers_log_probabilities_of_float16_are_read(put, tmp_path):
    """As `label.topk` writes them with that `dtype`; -1, -2 and halves are such numbers to the last bit."""
    half = pa.list_(pa.list_(pa.float16()))
    kind = TAUGHT.adding(replace(TAUGHT["teacher_logprobs"], type=half))
    rows = kind.conform(with_columns(ROWS, {"teacher_logprobs": ROWS["teacher_logprobs"].cast(half)}))
    given = Dataset.from_arrow(rows, kind, str(tmp_path / "half"))
    out = apply(Divergence(), given, str(tmp_path / "out"), resources=token_model()).read()
    whole = apply(Divergence(), put(ROWS), str(tmp_path / "whole"), resources=token_model()).read()
    assert out["student_kl"].equals(whole["student_kl"]) and out["teacher_logprobs"].type == half
    assert out["teacher_logprobs"].equals(rows["teacher_logprobs"])
