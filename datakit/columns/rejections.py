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
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for column, values in zip(REJECTION_COLUMNS, (reason, value, threshold), strict=True):
        whole = values if values is not None else pa.nulls(rows.num_rows, column.type)
        columns[column.name] = pa.repeat(whole, rows.num_rows) if isinstance(whole, str) else whole
    return pa.table({**dict(zip(rows.column_names, rows.columns, strict=True)), **columns})


def rejected_rows(rows: pa.Table, decision: FilterDecision) -> pa.Table:
    """The rows that `decision` lets go, with reason, value and threshold."""
    whole = set_aside(rows, decision.reason, decision.value, decision.threshold)
    return whole.filter(pc.invert(decision.keep))
