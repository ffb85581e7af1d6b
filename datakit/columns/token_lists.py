"""Columns of token ids as rows for a model, and its answers as columns that run along with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.columns.conversations import flat, starts
from schemas.errors import DataError, ServiceError


def token_rows(ids: pa.Array | pa.ChunkedArray) -> list[npt.NDArray[np.int64]]:
    """Each row's ids, an int64 array; views of one array."""
    column = flat(ids)
    return np.split(np.asarray(column.flatten()).astype(np.int64), starts(column)[1:-1]) if len(column) else []


def answered(answer: pa.Array, rows: Sequence[npt.NDArray[np.int64]], what: str) -> pa.Array:
    """`answer`; `ServiceError` (13) unless it holds one entry per token of each of `rows`."""
    lengths = np.array([len(row) for row in rows], np.int64)
    if len(answer) != len(rows) or not np.array_equal(np.diff(starts(answer)), lengths):
        raise ServiceError(
            "bad-reply",
            f"the model's reply cannot be used: its {what} are not one per token",
            expected=f"{int(lengths.sum())} in {len(rows)} rows",
            found=f"{int(starts(answer)[-1])} in {len(answer)} rows",
            kept="finished chunks; nothing was made up",
            next="mend the model's backend, then run the same command again",
        )
    return answer


def no_packs(rows: pa.Table, who: str) -> None:
    """`DataError` for rows that are packs of several sequences: a network would read across their borders."""
    if "lengths" in rows.column_names:
        raise DataError(
            "packed-rows",
            f"{who} reads one sequence a row, and these rows are packs of several",
            expected="token rows without a column lengths",
            kept="nothing was published",
            next="run it on the token rows that the packs were made of",
        )


def mask_of(masks: pa.Array | pa.ChunkedArray, ids: pa.Array | pa.ChunkedArray, name: str) -> npt.NDArray[np.int8]:
    """The masks of all rows laid end to end; `DataError` unless each is as long as its row's ids, of 0 and 1 alone."""
    column = flat(masks)
    offsets = starts(column)
    differ = np.flatnonzero(np.diff(offsets) != np.diff(starts(flat(ids))))
    if len(differ):
        raise DataError(
            "mask-length",
            f"{name} is not as long as its ids in {len(differ)} of {len(column)} rows, first row {differ[0]}",
            expected="one entry per token",
            kept="nothing was published",
            next="make ids and mask with one operation (tokenize.mask, tokenize.sequences)",
        )
    mask_T = np.asarray(column.flatten())
    if len(marked := np.flatnonzero(~np.isin(mask_T, (0, 1)))):
        row = int(np.searchsorted(offsets, marked[0], "right")) - 1
        raise DataError(
            "mask-values",
            f"{name} holds other numbers than 0 and 1, first in row {row}",
            expected="1 where a token is predicted and counted, 0 elsewhere",
            found=str(mask_T[marked[0]]),
            kept="nothing was published",
            next="make ids and mask with one operation (tokenize.mask, tokenize.sequences)",
        )
    return mask_T


def finite_rows(column: pa.Array) -> npt.NDArray[np.bool_]:
    """Rows of which every number is finite; entries may be lists of numbers."""
    numbers = flat(column).flatten()
    if pa.types.is_list(numbers.type):
        finite = finite_rows(numbers)
    else:
        finite = np.isfinite(np.asarray(numbers, np.float64))
    bad = np.concatenate([[0], np.cumsum(~finite)])
    ends = starts(column)
    return np.asarray(bad[ends[1:]] == bad[ends[:-1]])


def row_sums(values: npt.NDArray[np.float64], ends: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Sums of the values of every row; rows without values are 0."""
    row = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
    return np.bincount(row, weights=values, minlength=len(ends) - 1).astype(np.float64)


def as_matrix(column: pa.Array | pa.ChunkedArray, what: str) -> npt.NDArray[np.float64]:
    """The lists of every token as one array [T, K]; `DataError` where they are not as long as each other."""
    lists = flat(column).flatten()
    lengths = np.diff(starts(lists))
    if len(lengths) and (lengths != lengths[0]).any():
        raise DataError(
            "uneven-top-k",
            f"a teacher's {what} are {lengths.min()} at one token and {lengths.max()} at another",
            expected="as many at every token",
            kept="nothing was published",
            next="make them with label.topk",
        )
    values = np.asarray(lists.flatten())
    return values.reshape(len(lists), -1) if len(lists) else values.reshape(0, 1)
