"""Rows that go, with why: what stands beside a result, whichever shape of operation lets them go."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.op import REJECTION_COLUMNS, FilterDecision, Result
from schemas.dataset import Dataset
from schemas.schema import with_columns


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
    return with_columns(rows, columns)


def ids_and_numbers(rows: pa.Table, *ids: str) -> pa.Table:
    """Of `rows` the columns `ids` and all numbers: what is kept of an answer that its input holds whole, so that most
    of it is not stored a second time (texts: join by `sample_id` with the input).
    """
    return rows.select([field.name for field in rows.schema if field.name in ids or pa.types.is_primitive(field.type)])


def rejected_rows(rows: pa.Table, decision: FilterDecision) -> pa.Table:
    """The rows that `decision` lets go, with reason, value and threshold."""
    whole = set_aside(rows, decision.reason, decision.value, decision.threshold)
    return whole.filter(pc.invert(decision.keep))


def parted(dataset: Dataset, places: Iterator[pa.RecordBatch], reason: str, batch: int) -> Iterator[Result]:
    """Every row of the dataset, `batch` at a time: those with a number in `places` (ascending row numbers, each with a
    threshold and perhaps a value: [int64, string, float64]) go for `reason`. Both are read in step.
    """
    waiting = pa.schema([("n", pa.int64()), ("threshold", pa.string()), ("value", pa.float64())]).empty_table()
    start = 0
    for shard in range(len(dataset.shards)):
        for rows in dataset.batches(shard, batch):
            stop = start + rows.num_rows
            while (waiting.num_rows == 0 or waiting["n"][-1].as_py() < stop) and (
                more := next(places, None)
            ) is not None:
                columns = [*more.columns, *([pa.nulls(more.num_rows, pa.float64())] if more.num_columns == 2 else [])]
                waiting = pa.concat_tables([waiting, pa.table(columns, names=waiting.column_names)])
            here = pc.sum(pc.less(waiting["n"], stop)).as_py() or 0
            goes = np.asarray(waiting["n"].slice(0, here)) - start
            keep = np.ones(rows.num_rows, bool)
            keep[goes] = False
            why = waiting.slice(0, here)
            rejected = set_aside(rows.take(pa.array(goes)), reason, why["value"], why["threshold"])
            yield Result(rows.filter(pa.array(keep)), rejected)
            waiting, start = waiting.slice(here), stop
