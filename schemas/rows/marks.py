"""What people said of answers: good, bad, or how it should have been said."""

from __future__ import annotations

import pyarrow as pa

from schemas.schema import Column, Schema

MARKS = Schema(
    "marks",
    1,
    (
        Column("sample_id", pa.string(), "the answer that was looked at"),
        Column("mark", pa.string(), "good, bad or edited, as it was written", nullable=True),
        Column("edited", pa.string(), "the answer as it should be", nullable=True),
        Column("note", pa.string(), "what was said besides", nullable=True),
    ),
)
"""A person's mark on a sample. No key: a sample that was marked twice is found where marks meet their samples."""
