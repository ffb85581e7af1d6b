"""online.agreement: how far the numbers of the decoder are from those of training, and what becomes of rows beyond."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.online import StepAgreement
from schemas import TOKENS, Schema
from schemas.dataset import Dataset
from schemas.errors import HealthError
from tests.datakit.fakes import Example
from tests.datakit.online.policies import own

SCHEMA = Schema("drawn", 1, (TOKENS["sample_id"], *StepAgreement(most=0.0).takes.columns), key=("sample_id",))
ROWS = pa.table(
    {
        "sample_id": ["near", "far"],
        "input_ids": [[9, 4, 8], [9, 9, 2, 6]],
        "loss_mask": [[0, 1, 1], [0, 0, 1, 1]],
        "drawn_logprobs": [[0.0, -0.5, -1.25], [0.0, 7.0, -0.75, -0.5]],
    },
    schema=SCHEMA.arrow,
)
"""The network in training says -0.5 and -1.0 of the first answer, -0.25 and -0.75 of the second."""
EXAMPLES = [Example(StepAgreement(most=0.2, beyond="recompute"), (ROWS,), own())]


def worked(folder: Path, **settings: Any) -> pa.Table:
    rows = Dataset.from_arrow(ROWS, SCHEMA, str(folder / "rows"))
    return apply(StepAgreement(**settings), rows, str(folder / "made"), resources=own()).read()


def test_the_distance_is_a_mean_over_the_tokens_of_the_answer(tmp_path: Path) -> None:
    """(0 + 0.25) / 2 and (0.5 + 0.25) / 2; tokens of a prompt are no part of it."""
    made = worked(tmp_path, most=1.0)
    assert made["logprob_error"].to_pylist() == [0.125, 0.375]
    assert made["drawn_logprobs"].to_pylist()[1][2:] == [-0.75, -0.5]


def test_a_row_beyond_gets_the_numbers_of_training(tmp_path: Path) -> None:
    made = worked(tmp_path, most=0.2, beyond="recompute")
    assert made["drawn_logprobs"].to_pylist() == [[0.0, -0.5, -1.25], [0.0, 0.0, -0.25, -0.75]]


def test_a_row_beyond_stops_the_run_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(HealthError, match="1 of 2 answers were drawn with other log-probabilities") as caught:
        worked(tmp_path, most=0.2)
    assert caught.value.found == "0.375, farthest off far"
