"""Turns with roles: a whole conversation to learn from."""

from __future__ import annotations

import pyarrow as pa

from schemas.rows.conversation import MESSAGES, TOOLS
from schemas.schema import Column, Schema

CHATS = Schema(
    "chats",
    2,
    (
        Column("chat_id", pa.string(), "function of the conversation"),
        Column("messages", MESSAGES, "all turns, the assistant's included"),
        TOOLS,
        Column("source", pa.string(), "where the row came from", nullable=True),
    ),
    key=("chat_id",),
)

SYSTEM_MARK, TURN_MARK, LABEL_MARK = "<extra_id_0>", "<extra_id_1>", "<extra_id_2>"
"""NeMo-Aligner's marks, as its `data.chat_prompt_tokens` has them: before the system's text, a turn, a label."""

GIVEN_LABELS, LEARNT_LABELS = "VALUE_TO_TEXT", "TEXT_TO_VALUE"
"""NeMo-Aligner's types of chats whose turns carry labels: a label is given before its turn, or is what is learnt."""
