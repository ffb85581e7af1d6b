"""label.topk: the likeliest ids and their log-probabilities, as long as the row."""

from __future__ import annotations

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.label import TopK
from schemas import TOKENS
from schemas.errors import ConfigError
from tests.datakit.fakes import Example, token_model

EXAMPLES = [Example(TopK(k=2, rows_per_chunk=3), (TOKENS.example(8),), token_model())]


def test_ids_and_logprobs_run_along_with_the_row(put, tmp_path):
    rows = TOKENS.example(1)
    out = apply(TopK(k=2, dtype="float16"), put(rows), str(tmp_path / "out"), resources=token_model()).read()
    ids = rows["input_ids"].to_pylist()[0]
    assert out["teacher_ids"].to_pylist() == [[[0, 0], *([i, i + 1] for i in ids[1:])]]
    assert out["teacher_logprobs"].to_pylist() == [[[0.0, 0.0], *([0.0, -1.0] for _ in ids[1:])]]
    assert out["teacher_logprobs"].type == pa.list_(pa.list_(pa.float16()))


def test_k_is_positive():
    with pytest.raises(ConfigError, match="at least 1"):
        TopK(k=0)
