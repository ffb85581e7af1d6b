"""online.lag: how far the policy that learns is from the one that drew, row by row."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from datakit.apply import apply
from datakit.filter import Where
from datakit.online import StepLag
from schemas import TOKENS, Schema
from schemas.dataset import Dataset
from tests.datakit.fakes import Example
from tests.datakit.online.policies import own

SCHEMA = Schema("drawn", 1, (TOKENS["sample_id"], *StepLag().takes.columns), key=("sample_id",))
ROWS = pa.table({"sample_id": ["new", "near", "far"], "weight_version": [7, 6, 4]}, schema=SCHEMA.arrow)
EXAMPLES = [Example(StepLag(), (ROWS,), own())]


def test_what_is_too_old_is_left_out_by_a_predicate(tmp_path: Any) -> None:
    rows = Dataset.from_arrow(ROWS, SCHEMA, str(tmp_path / "rows"))
    made = apply(StepLag(), rows, str(tmp_path / "made"), resources=own())
    assert made.read()["lag"].to_pylist() == [0, 1, 3]
    kept = apply(Where(predicate="lag <= 1"), made, str(tmp_path / "kept"))
    assert kept.read()["sample_id"].to_pylist() == ["new", "near"]
