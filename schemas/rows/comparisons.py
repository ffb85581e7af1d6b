"""A question and two answers to it, not compared yet."""

from __future__ import annotations

import pyarrow as pa

from schemas.rows.conversation import MESSAGES, TOOLS
from schemas.schema import Column, Schema

SIDES = ("first", "second")
"""The columns of the two answers."""

COMPARISONS = Schema(
    "comparisons",
    1,
    (
        Column("pair_id", pa.string(), "function of prompt and both answers"),
        Column("prompt_id", pa.string(), "the question"),
        Column("messages", MESSAGES, "the conversation before the answers"),
        TOOLS,
        Column("first", pa.string(), "one answer"),
        Column("second", pa.string(), "the other answer"),
        Column("first_sample_id", pa.string(), "the sample that first was drawn as"),
        Column("second_sample_id", pa.string(), "the sample that second was drawn as"),
        Column("first_finish_reason", pa.string(), "as in samples: length where cut", nullable=True),
        Column("second_finish_reason", pa.string(), "the same of second", nullable=True),
        Column("source", pa.string(), "where the row came from", nullable=True),
    ),
    key=("pair_id",),
)
