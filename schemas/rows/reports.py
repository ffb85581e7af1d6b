"""What a stage measured, in long form: one number a row."""

from __future__ import annotations

import pyarrow as pa

from schemas.schema import Column, Schema

REPORTS = Schema(
    "reports",
    1,
    (
        Column("stage", pa.string(), "the stage that measured"),
        Column("metric", pa.string(), "what was measured"),
        Column("value", pa.float64(), "the figure", finite=True),
    ),
    key=("stage", "metric"),
)
