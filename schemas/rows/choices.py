"""A question with answers on offer, of which one is to be picked."""

from __future__ import annotations

import pyarrow as pa

from schemas.rows.conversation import MESSAGES, TOOLS
from schemas.schema import Column, Schema

OFFERED = (
    Column("choices", pa.list_(pa.string()), "the answers on offer"),
    Column("right", pa.list_(pa.bool_()), "whether each of them is right"),
    Column("best", pa.int32(), "the place of the right one that is to be picked, from 0"),
    Column(
        "scores",
        pa.list_(pa.float64()),
        "what picking each of them counts for; null: nothing",
        nullable=True,
    ),
)
"""What is on offer: several answers may be right, one is the best of these."""

CHOICES = Schema(
    "choices",
    1,
    (
        Column("prompt_id", pa.string(), "the question"),
        Column("messages", MESSAGES, "the conversation so far; its last turn is the user's"),
        TOOLS,
        *OFFERED,
        Column("source", pa.string(), "where the row came from", nullable=True),
    ),
    key=("prompt_id",),
)
