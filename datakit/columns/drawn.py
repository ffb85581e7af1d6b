"""What rows say of texts that a policy drew: as which sample each was drawn, and why it ended.

Of the column `response` these are `sample_id` and `finish_reason`, as in SAMPLES; of another one, `chosen` say,
`chosen_sample_id` and `chosen_finish_reason`.
"""

from __future__ import annotations

import pyarrow as pa

from datakit.columns.conversations import flat


def sample_ids(rows: pa.Table, answer: str) -> pa.Array:
    """As which sample each text in the column `answer` was drawn; null where nobody knows."""
    return _texts(rows, "sample_id" if answer == "response" else f"{answer}_sample_id")


def finish_reasons(rows: pa.Table, answer: str = "response") -> pa.Array:
    """Why each text in the column `answer` ended, where rows say so in texts; null where nobody knows."""
    return _texts(rows, "finish_reason" if answer == "response" else f"{answer}_finish_reason")


def _texts(rows: pa.Table, name: str) -> pa.Array:
    values = flat(rows[name]) if name in rows.column_names else pa.nulls(rows.num_rows)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return pa.nulls(rows.num_rows, pa.string())
    return values.cast(pa.string())
