"""Rows on their way into a child that runs SQL, and those that come back."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from schemas.dataset import Dataset

_BATCH_ROWS = 65536
_BATCH_BYTES = 64 << 20


def gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The rows of `batches` in tables of `_BATCH_ROWS`, of fewer where they are large."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        waiting.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield pa.Table.from_batches(waiting)
            waiting, rows, size = [], 0, 0
    if rows:
        yield pa.Table.from_batches(waiting)


def batches_of(dataset: Dataset) -> Iterator[pa.RecordBatch]:
    """All rows of a dataset, in the order of its shards, few of them at a time."""
    for shard in range(len(dataset.shards)):
        for rows in dataset.batches(shard, _BATCH_ROWS):
            yield from rows.replace_schema_metadata(None).to_batches()
