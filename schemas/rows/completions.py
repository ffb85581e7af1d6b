"""A question and the answer to learn: one row of supervised fine-tuning."""

from __future__ import annotations

import pyarrow as pa

from schemas.rows.conversation import MESSAGES, TOOLS
from schemas.schema import Column, Schema

COMPLETIONS = Schema(
    "completions",
    2,
    (
        Column("sample_id", pa.string(), "function of prompt and answer"),
        Column("prompt_id", pa.string(), "the question it answers"),
        Column("messages", MESSAGES, "the conversation before the answer"),
        TOOLS,
        Column("response", pa.string(), "the answer"),
        Column("source", pa.string(), "where the row came from", nullable=True),
    ),
    key=("sample_id",),
)
