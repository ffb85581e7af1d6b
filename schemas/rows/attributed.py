"""Answers with several judgements each: what a regression reward model eats."""

from __future__ import annotations

import pyarrow as pa

from schemas.rows.conversation import IDS
from schemas.schema import Column, Schema

NOT_JUDGED = -100.0
"""NeMo-Aligner's number for an attribute that nobody judged; no trainer takes it for one, wherever it came from."""

ATTRIBUTED = Schema(
    "attributed",
    1,
    (
        Column("sample_id", pa.string(), "the row this was made from"),
        Column("input_ids", IDS, "the conversation and the answer that was judged"),
        Column("labels", pa.list_(pa.float32()), "one number per attribute, null where it was not judged"),
        Column("source", pa.string(), "where the row came from", nullable=True),
    ),
    key=("sample_id",),
)
