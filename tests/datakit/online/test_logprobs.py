"""online.logprobs: what a run's own networks say of every token, by column; nothing is left out in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.online import StepLogprobs
from schemas import TOKENS
from schemas.dataset import Dataset
from schemas.errors import QuiverError
from tests.datakit.fakes import Example
from tests.datakit.online.policies import own

BOTH: Any = ("old_logprobs", "ref_logprobs")
SCHEMA = TOKENS.selecting("sample_id", "input_ids")
ROWS = pa.table({"sample_id": ["a", "b"], "input_ids": [[9, 4, 8], [9, 2]]}, schema=SCHEMA.arrow)
EXAMPLES = [
    Example(StepLogprobs(columns=BOTH), (ROWS,), own()),
    Example(StepLogprobs(columns=BOTH[:1]), (ROWS,), own()),
]


def test_each_column_is_of_its_own_network(tmp_path: Path) -> None:
    rows = Dataset.from_arrow(ROWS, SCHEMA, str(tmp_path / "rows"))
    made = apply(StepLogprobs(columns=BOTH), rows, str(tmp_path / "made"), resources=own()).read()
    assert made["old_logprobs"].to_pylist() == [[0.0, -0.5, -1.0], [0.0, -0.25]]
    assert made["ref_logprobs"].to_pylist() == [[0.0, -1.0, -2.0], [0.0, -0.5]]


@pytest.mark.parametrize(
    ("settings", "words"), [({"odd": 4}, "logprobs-not-finite"), ({"silent": True}, "old_logprobs")]
)
def test_a_number_that_is_missing_stops_the_step(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    rows = Dataset.from_arrow(ROWS, SCHEMA, str(tmp_path / "rows"))
    with pytest.raises(QuiverError, match=words):
        apply(StepLogprobs(columns=BOTH), rows, str(tmp_path / "made"), resources=own(**settings))
    assert not (tmp_path / "made").exists()
