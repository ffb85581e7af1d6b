"""A number column as operations decide on it: float64, where null, NaN and infinity are all the same "not a
number".

DuckDB, polars and numpy rank NaN above every number; here it never wins, never counts and never passes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas import Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.nearest import suggestion
from schemas.store.storage import guarded

_BATCH_ROWS = 1 << 16
_IN_MEMORY = 1 << 24
"""Values that are kept in memory (128 MiB); more lie in a temporary file, which the system pages."""

Floats = npt.NDArray[np.float64]

TIED_WITHIN = 1e-9
"""Means that differ by at most this share of the larger one (or of 1) are tied: sums of the same numbers in another
order differ by less.
"""

NOT_FINITE = "not-finite"
"""The reason of a row whose number is null, NaN or infinite."""


def require_number(schema: Schema, column: str, who: str) -> None:
    """Raise `ConfigError` unless `schema` has a number or truth column of that name."""
    require_columns(schema, (column,), who)
    kind = schema[column].type
    if not is_number(kind):
        raise ConfigError(
            "not-a-number", f"{who} needs a number in {column}, which is {kind}", kept="nothing was started"
        )


def is_number(kind: pa.DataType) -> bool:
    """Whether values of that type are numbers, or true and false, which count as 1 and 0."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def require_columns(schema: Schema, columns: Iterable[str], who: str) -> None:
    """Raise `ConfigError` naming every one of `columns` that `schema` lacks."""
    missing = [name for name in columns if name not in schema]
    if missing:
        error = ConfigError(
            "unknown-column",
            f"{who} names columns that are not there: "
            + ", ".join(name + suggestion(name, list(schema.names)) for name in missing),
            found=", ".join(schema.names),
            kept="nothing was started",
        )
        error.missing = tuple(missing)
        raise error


def numbers(values: pa.ChunkedArray | pa.Array) -> Floats:
    """`values` as float64, with NaN where they are null or not finite."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    floats = np.asarray(pc.fill_null(values.cast(pa.float64(), safe=False), float("nan")), dtype=np.float64)
    return np.where(np.isfinite(floats), floats, np.nan)


def measured(values: Floats) -> pa.Array:
    """`values` as Arrow, null where they are NaN: what a rejected row shows as its value."""
    return pa.array(values, mask=np.isnan(values))


def groups(keys: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.int64]:
    """A number for each row, equal where the keys are equal, counted up by first appearance; null is a key
    too.
    """
    encoded = pc.dictionary_encode(pa.chunked_array(keys), null_encoding="encode")  # one dictionary for all chunks
    parts = [np.asarray(chunk.indices) for chunk in encoded.chunks]
    return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)


class FiniteValues:
    """The finite values of a number column over a whole dataset, and their exact quantiles.

    One scan reads that column alone. Order statistics come of a selection in place (quickselect, linear on average),
    in memory or in the temporary file, so that any number of rows needs a bounded amount of memory.
    """

    def __init__(self, dataset: Dataset, column: str) -> None:
        room = _room(dataset.num_rows)
        count = 0
        for shard in range(len(dataset.shards)):
            for rows in dataset.batches(shard, _BATCH_ROWS, columns=[column]):
                values = numbers(rows[column])
                finite = values[~np.isnan(values)]
                room[count : count + len(finite)] = finite
                count += len(finite)
        self._values = room[:count]

    def __len__(self) -> int:
        return len(self._values)

    def chunks(self) -> Iterator[Floats]:
        """All values in arrays of bounded length, in no particular order."""
        for start in range(0, len(self), _BATCH_ROWS):
            yield self._values[start : start + _BATCH_ROWS]

    def nth(self, *places: int) -> list[float]:
        """The values at these places (from 0) of the ascending order."""
        self._values.partition(places)
        return [float(self._values[place]) for place in places]

    def at(self, share: float) -> float:
        """The value below which `share` (0..1) of the values lie, interpolated as `numpy.quantile` does by default."""
        place = share * (len(self) - 1)
        low = int(place)
        below, above = self.nth(low, min(low + 1, len(self) - 1))
        part = place - low
        if part == 0:
            return below
        if not np.isfinite(above - below):
            return below * (1 - part) + above * part
        return below + (above - below) * part if part < 0.5 else above - (above - below) * (1 - part)


def _room(count: int) -> Floats:
    if count <= _IN_MEMORY:
        return np.empty(count)
    with tempfile.TemporaryFile(prefix="quiver-column-") as file, guarded("write", tempfile.gettempdir()):
        os.posix_fallocate(file.fileno(), 0, count * 8)
        return np.memmap(file, np.float64, "r+", shape=(count,))
