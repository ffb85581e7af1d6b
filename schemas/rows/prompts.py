"""A question: a conversation that ends where the model is to answer."""

from __future__ import annotations

import pyarrow as pa

from schemas.rows.conversation import MESSAGES, TOOLS
from schemas.schema import Column, Schema

PROMPTS = Schema(
    "prompts",
    2,
    (
        Column("prompt_id", pa.string(), "function of the conversation, stable over imports"),
        Column("messages", MESSAGES, "the conversation so far; its last turn is the user's"),
        TOOLS,
        Column("answer", pa.string(), "gold answer, where one is known", nullable=True),
        Column("source", pa.string(), "where the row came from", nullable=True),
    ),
    key=("prompt_id",),
)
