"""Rows that go, with why: the side table of operations that see many rows together."""

from __future__ import annotations

import pyarrow as pa

from datakit.op import REJECTION_COLUMNS
from datakit.run.shapes import with_column


def set_aside(
    rows: pa.Table,
    reason: pa.Array | str,
    value: pa.Array | None = None,
    threshold: pa.Array | str | None = None,
) -> pa.Table:
    """`rows` with the rejection columns; a single text stands for every row."""
    for column, values in zip(REJECTION_COLUMNS, (reason, value, threshold), strict=True):
        whole = values if values is not None else pa.nulls(rows.num_rows, column.type)
        rows = with_column(rows, column.name, pa.repeat(whole, rows.num_rows) if isinstance(whole, str) else whole)
    return rows
