"""What training saw: one row for every time a row was trained on, to be joined with the data by the row's own key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from schemas.schema import Column, Schema

RECORDS = Schema(
    "records",
    1,
    (
        Column("row_id", pa.string(), "the row's key in the data, under the key's own name"),
        Column("step", pa.int32(), "the optimizer step it took part in, from 1"),
        Column("epoch", pa.int32(), "which time through the data, from 0"),
        Column("source", pa.string(), "where the row came from", nullable=True),
        Column("weight", pa.float64(), "what the loss counted of the row: its tokens, or 1"),
        Column("loss", pa.float32(), "mean of its loss before that step changed the weights", nullable=True),
    ),
    key=("row_id", "epoch"),
)


def records_of(key: str, row_metrics: Sequence[str] = ()) -> Schema:
    """RECORDS of rows whose key column is `key`, with the algorithm's own float32 numbers behind.

    The key stays `row_id` where `key` is the name of another column.
    """
    name = key if key not in (*RECORDS.names, *row_metrics) else "row_id"
    columns = (replace(RECORDS["row_id"], name=name), *RECORDS.columns[1:])
    more = tuple(Column(metric, pa.float32(), "a row metric of the algorithm") for metric in row_metrics)
    return Schema(RECORDS.name, RECORDS.version, (*columns, *more), key=(name, "epoch"))
