"""Rows that go, with why: what stands beside a result, whichever shape of operation lets them go."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from datakit.op import REJECTION_COLUMNS, FilterDecision


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


def rejected_rows(rows: pa.Table, decision: FilterDecision) -> pa.Table:
    """The rows that `decision` lets go, with reason, value and threshold."""
    whole = set_aside(rows, decision.reason, decision.value, decision.threshold)
    return whole.filter(pc.invert(decision.keep))


def with_column(rows: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """`rows` with that column replaced in place, or added at the end."""
    at = rows.schema.get_field_index(name)
    return rows.append_column(name, values) if at < 0 else rows.set_column(at, name, values)
