"""What stands for a row where rows with equal keys belong together: a column of text, or the first question of a
conversation, whatever was answered.
"""

from __future__ import annotations

import pyarrow as pa

from datakit.columns.conversations import first_question, flat
from schemas import MESSAGES, Column, Schema


def keyed(key: str) -> Schema:
    """What rows must have to go by `key`: a column of text, or `messages`."""
    kind = MESSAGES if key == "messages" else pa.string()
    return Schema("keyed", 1, (Column(key, kind, "rows with the same value stay together", nullable=True),))


def texts_of(rows: pa.Table, key: str) -> pa.ChunkedArray:
    """The text of each row; null for a null, and for a conversation without a question."""
    column = rows[key]
    return pa.chunked_array([first_question(flat(column))]) if key == "messages" else column
