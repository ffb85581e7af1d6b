"""The text of a row, of one column or several, for what compares what rows say.

`messages` stands for what all turns but the system's say; parts are joined by a line break. A null says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat, starts
from schemas import MESSAGES, Column, Schema
from schemas.dataset import Dataset

_BATCH_ROWS = 4096
_BATCH_BYTES = 1 << 23
"""Bytes of text that are worked on together; one longer text is worked on alone."""


def with_texts(columns: Sequence[str]) -> Schema:
    """What rows must have whose texts are read: conversations in `messages`, text in the other columns."""
    meaning = "what is compared"
    kinds = ((name, MESSAGES if name == "messages" else pa.string()) for name in columns)
    return Schema("texts", 1, tuple(Column(name, kind, meaning, nullable=True) for name, kind in kinds))


def row_texts(rows: pa.Table, columns: Sequence[str]) -> pa.Array:
    """The text of each row, never null."""
    parts = [_text(rows[name]) for name in columns]
    return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, "\n")


def text_batches(
    dataset: Dataset, columns: Sequence[str], more: Sequence[str] | None = None
) -> Iterator[tuple[pa.Table, pa.Array]]:
    """Of all rows, in order, in batches of bounded size: the columns `more` (None: all) and the texts of `columns`."""
    read = None if more is None else list(dict.fromkeys((*more, *columns)))
    for shard in range(len(dataset.shards)):
        for rows in dataset.batches(shard, _BATCH_ROWS, columns=read):
            texts = row_texts(rows, columns)
            chosen = rows if more is None else rows.select(more)
            for start, stop in runs_within(np.asarray(pc.binary_length(texts)), _BATCH_BYTES):
                yield chosen.slice(start, stop - start), texts.slice(start, stop - start)


def runs_within(costs: npt.NDArray[np.integer], most: int) -> Iterator[tuple[int, int]]:
    """Runs of neighbours (start, stop) that cost `most` together at most, or are one alone that costs more."""
    total = np.cumsum(costs, dtype=np.int64)
    start = 0
    while start < len(total):
        before = int(total[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(total, before + most, side="right")))
        yield start, stop
        start = stop


def _text(column: pa.ChunkedArray) -> pa.Array:
    if not pa.types.is_list(column.type):
        return pc.fill_null(flat(column), "")
    turns = flat(column)
    inner = turns.flatten()
    contents = pc.if_else(pc.equal(inner.field("role"), "system"), "", pc.fill_null(inner.field("content"), ""))
    lists = pa.ListArray.from_arrays(pa.array(starts(turns)), contents)
    return pc.binary_join(lists, "\n")
