"""A question, the better answer and the worse one."""

from __future__ import annotations

import pyarrow as pa

from schemas.rows.conversation import MESSAGES, TOOLS
from schemas.schema import Column, Schema

PREFERENCES = Schema(
    "preferences",
    2,
    (
        Column("pair_id", pa.string(), "function of prompt and both answers"),
        Column("prompt_id", pa.string(), "the question"),
        Column("messages", MESSAGES, "the conversation before the answers"),
        TOOLS,
        Column("chosen", pa.string(), "the better answer"),
        Column("rejected", pa.string(), "the worse answer"),
        Column("chosen_reward", pa.float64(), "its reward, where one is known", nullable=True, finite=True),
        Column("rejected_reward", pa.float64(), "its reward, where one is known", nullable=True, finite=True),
        Column("source", pa.string(), "where the row came from", nullable=True),
    ),
    key=("pair_id",),
)
