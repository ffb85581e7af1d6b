"""label.values: a critic's number at every token."""

from __future__ import annotations

import numpy as np

from datakit.apply import apply
from datakit.label import Values
from schemas import TOKENS
from tests.datakit.fakes import Example, token_model

EXAMPLES = [Example(Values(rows_per_chunk=3), (TOKENS.example(8),), token_model())]


def test_values_run_along_with_the_row_and_broken_ones_take_it_out(put, tmp_path):
    rows = TOKENS.example(2)
    first, second = rows["input_ids"].to_pylist()
    model = token_model(odd={second[-1]: float("inf")})
    out = apply(Values(), put(rows), str(tmp_path / "out"), resources=model, max_rejected=1)
    assert out.num_rows == 1
    np.testing.assert_allclose(out.read()["values"].to_pylist()[0], [0.0, *(-i / 100 for i in first[1:])], atol=1e-6)
