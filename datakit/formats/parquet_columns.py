"""Columns of an outside Parquet batch as a format's keys: in the declared types, with the rows that cannot stay."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import Faults
from datakit.formats.advice import renamed
from datakit.formats.keys import Key
from datakit.formats.parse import holds_nul
from schemas import Column, Schema
from schemas.errors import DataError
from schemas.store.storage import shown


def raw_columns(batch: pa.Table, keys: tuple[Key, ...], url: str, first: int) -> pa.Table:
    """The keys' columns in their declared types; `DataError` for a column that is absent or of another
    type.
    """
    columns = {}
    for key in keys:
        present = [name for name in key.names if name in batch.column_names]
        if not present and key.required:
            message = f"{shown(url)} has no column {' or '.join(key.names)}"
            raise DataError("missing-key", message, found=", ".join(batch.column_names), kept="nothing was published")
        one = Schema("column", 1, tuple(Column(name, key.shape.type, "", nullable=True) for name in present))
        table = one.conform(batch.select(present), f"{shown(url)}, rows from {first}")
        values = [table[name] for name in present]
        nothing = pa.chunked_array([pa.nulls(batch.num_rows, key.shape.type)])
        columns[key.name] = nothing if not values else values[0] if len(values) == 1 else pc.coalesce(*values)
    return pa.table(columns)


def absent(keys: Iterable[Key], there: Collection[str]) -> list[Key]:
    """Required keys that have no column among those that are `there`."""
    return [key for key in keys if key.required and set(key.roots).isdisjoint(there)]


def check_columns(url: str, keys: tuple[Key, ...], there: list[str]) -> None:
    """`DataError` for a key of which the file has no column at all."""
    missing = absent(keys, there)
    if missing:
        raise DataError(
            "missing-key",
            f"{shown(url)} has no column {' or '.join(missing[0].names)}",
            found=", ".join(map(shown, there)),
            kept="nothing was published",
            next=renamed(missing, there),
        )


def wrong_rows(raw: pa.Table, keys: tuple[Key, ...]) -> Faults:
    """Rows with a null where a value must be, a number that is not finite, or a NUL in text."""
    faults: Faults = []
    for key in keys:
        column = raw[key.name].combine_chunks()
        if key.required and column.null_count:
            faults.append((np.asarray(column.is_null()), "null"))
        if pa.types.is_floating(key.shape.type):
            faults.append((np.asarray(pc.fill_null(pc.invert(pc.is_finite(column)), False)), "not-finite"))
        if holds_nul(raw[key.name]):
            faults.append((np.array([_has_nul(value) for value in column.to_pylist()], bool), "bad-text"))
    return faults


def _has_nul(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_has_nul, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and "\x00" in value
