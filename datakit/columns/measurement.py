"""A number column as operations decide on it: float64, where null, NaN and infinity are all the same "not a
number".

DuckDB, polars and numpy rank NaN above every number; here it never wins, never counts and never passes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas import Schema
from schemas.errors import ConfigError
from schemas.settings import suggestion

NOT_FINITE = "not-finite"
"""The reason of a row whose number is null, NaN or infinite."""


def require_number(schema: Schema, column: str, who: str) -> None:
    """Raise `ConfigError` unless `schema` has a number or truth column of that name."""
    require_columns(schema, (column,), who)
    kind = schema[column].type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ConfigError(
            "not-a-number", f"{who} needs a number in {column}, which is {kind}", kept="nothing was started"
        )


def require_columns(schema: Schema, columns: Iterable[str], who: str) -> None:
    """Raise `ConfigError` naming every one of `columns` that `schema` lacks."""
    missing = [name for name in columns if name not in schema]
    if missing:
        raise ConfigError(
            "unknown-column",
            f"{who} names columns that are not there: "
            + ", ".join(name + suggestion(name, list(schema.names)) for name in missing),
            found=", ".join(schema.names),
            kept="nothing was started",
        )


def numbers(values: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.float64]:
    """`values` as float64, with NaN where they are null or not finite."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    floats = np.asarray(pc.fill_null(values.cast(pa.float64(), safe=False), float("nan")), dtype=np.float64)
    return np.where(np.isfinite(floats), floats, np.nan)


def measured(values: npt.NDArray[np.float64]) -> pa.Array:
    """`values` as Arrow, null where they are NaN: what a rejected row shows as its value."""
    return pa.array(values, mask=np.isnan(values))


def groups(keys: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.int64]:
    """A number for each row, equal where the keys are equal, counted up by first appearance; null is a key
    too.
    """
    encoded = pc.dictionary_encode(pa.chunked_array(keys), null_encoding="encode")  # one dictionary for all chunks
    parts = [np.asarray(chunk.indices) for chunk in encoded.chunks]
    return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)
