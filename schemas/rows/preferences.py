"""A question, the better answer and the worse one."""

from __future__ import annotations

import pyarrow as pa

from schemas.rows.conversation import MESSAGES, TOOLS
from schemas.schema import Column, Schema

PAIR_LINEAGE = (
    Column("chosen_sample_id", pa.string(), "the sample that chosen was drawn as", nullable=True),
    Column("rejected_sample_id", pa.string(), "the sample that rejected was drawn as", nullable=True),
    Column("chosen_finish_reason", pa.string(), "of a drawn answer, as in samples: length where cut", nullable=True),
    Column("rejected_finish_reason", pa.string(), "the same of rejected", nullable=True),
)
"""What pairs hold of the samples that their answers were drawn as; null where an answer came in from outside."""

PREFERENCES = Schema(
    "preferences",
    3,
    (
        Column("pair_id", pa.string(), "function of prompt and both answers"),
        Column("prompt_id", pa.string(), "the question"),
        Column("messages", MESSAGES, "the conversation before the answers"),
        TOOLS,
        Column("chosen", pa.string(), "the better answer"),
        Column("rejected", pa.string(), "the worse answer"),
        Column("chosen_reward", pa.float64(), "its reward, where one is known", nullable=True, finite=True),
        Column("rejected_reward", pa.float64(), "its reward, where one is known", nullable=True, finite=True),
        *PAIR_LINEAGE,
        Column("source", pa.string(), "where the row came from", nullable=True),
    ),
    key=("pair_id",),
)
