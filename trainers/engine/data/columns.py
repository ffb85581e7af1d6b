"""A table of token rows as NumPy arrays: what trainers read of it, without copies where Arrow's buffers allow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from schemas.errors import DataError, counted

Row: TypeAlias = Mapping[str, np.ndarray]
"""List columns as arrays (one entry per token; `gather_ids` [tokens, K]), vectors as [K], numbers of shape []."""


@dataclass(frozen=True)
class Reads:
    """What is read of a table: its list and number `columns`, `ids` and `vectors` among them, and the columns that name
    a row (`name`), each sequence of a pack (`label`) and where it came from (`source`, None: unknown).
    """

    columns: tuple[str, ...]
    ids: tuple[str, ...]
    vectors: tuple[str, ...]
    name: str
    label: str
    source: str | None

    @property
    def all(self) -> list[str]:
        """Every column that is read, once."""
        naming = (self.name, self.label, self.source)
        return list(dict.fromkeys((*self.columns, *(name for name in naming if name is not None))))


class Columns:
    """Rows as NumPy arrays: list columns as (values, offsets), number columns, and the names of the rows.

    `labels` are the keys of the sequences inside packs, `sources` a text per row or one per sequence.
    """

    def __init__(self, table: pa.Table, reads: Reads, where: str) -> None:
        table = table.combine_chunks()
        self.lists: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.numbers: dict[str, np.ndarray] = {}
        for name in reads.columns:
            column = table[name].combine_chunks()
            if column.null_count:
                raise DataError("null", f"{name} is null in {counted(column.null_count, 'row')}", where=where)
            if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
                self.lists[name] = _list(column, name, where, vector=name in reads.vectors)
            else:
                self.numbers[name] = _numbers(column)
        self.names = table[reads.name].combine_chunks()
        self.labels = table[reads.label].combine_chunks() if reads.label != reads.name else None
        self.sources = None if reads.source is None else table[reads.source].combine_chunks()
        self.tokens = sum(self.lists[name][0].size for name in reads.ids)

    def name(self, number: int) -> str:
        """What row `number` is called."""
        return str(self.names[number].as_py())

    def row(self, number: int) -> Row:
        """Row `number` of the table: a list column as an array of its values, a number column as a scalar."""
        row: dict[str, np.ndarray] = {}
        for name, (values, offsets) in self.lists.items():
            start, stop = offsets[number : number + 2].tolist()
            row[name] = values[start:stop]
        for name, values in self.numbers.items():
            row[name] = values[number]
        return row

    def content_digest(self) -> bytes:
        """SHA-256 of all that is learnt from: lists and numbers, names left out."""
        total = hashlib.sha256()
        for name, (values, offsets) in sorted(self.lists.items()):
            read = values[offsets[0] : offsets[-1]]
            total.update(f"{name} {read.dtype} {read.shape}".encode())
            total.update(np.ascontiguousarray(offsets - offsets[0], dtype=np.int64).data)
            total.update(np.ascontiguousarray(read).data)
        for name, values in sorted(self.numbers.items()):
            total.update(f"{name} {values.dtype} {values.shape}".encode() + np.ascontiguousarray(values).tobytes())
        return total.digest()


def _list(column: pa.Array, name: str, where: str, *, vector: bool) -> tuple[np.ndarray, np.ndarray]:
    """Values and offsets of a list column; a list of lists of one inner length K gives values [tokens, K].

    A null entry is NaN in a `vector`, elsewhere a `DataError`.
    """
    offsets, values = _numbers(column.offsets), column.values
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        inner = _numbers(values.offsets)
        widths = np.unique(np.diff(inner[offsets[0] : offsets[-1] + 1]))
        if len(widths) > 1:
            raise DataError("ragged", f"{name} holds {widths.min()} to {widths.max()} entries per token", where=where)
        start, stop = inner[offsets[0]], inner[offsets[-1]]
        entries = values.values.slice(start, stop - start)
        if values.null_count or entries.null_count:
            raise DataError("null", f"{name} holds nulls among its entries", where=where)
        flat = _numbers(entries)
        return flat.reshape(-1, int(widths[0]) if len(widths) else 1), offsets - offsets[0]
    if values.null_count and not vector:
        raise DataError("null", f"{name} holds nulls among its entries", where=where)
    return _numbers(values), offsets


def _numbers(values: pa.Array) -> np.ndarray:
    """The array's own buffer where it is numbers without nulls (pyarrow's conversion imports pandas first)."""
    plain = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    if values.null_count or not plain:
        converted: np.ndarray = values.to_numpy(zero_copy_only=False)
        return converted
    kind, data = values.type.to_pandas_dtype(), values.buffers()[1]
    whole = np.frombuffer(data, dtype=kind) if data is not None and data.size else np.empty(0, dtype=kind)
    return whole[values.offset : values.offset + len(values)]
