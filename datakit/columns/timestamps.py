"""Dates, times and durations of outside columns as Python's values or as texts, also those that Python cannot hold.

Python's years end at 9999, its times at microseconds; Arrow's texts end at year 32767, and both ask for a database of
time zones. What lies beyond is written as NumPy does, a time with a zone in UTC; the largest moment of a type is
DuckDB's `infinity`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_BEYOND = "<value out of range"
"""What Arrow writes for a moment that it has no text for."""


def values(column: pa.Array | pa.ChunkedArray, moment: Callable[[pa.Scalar], Any]) -> list[Any]:
    """The values of `column` as Python's; `moment` makes those of dates, times and durations, inside of others too."""
    if not any(map(_is_moment, kinds(column.type))):
        return column.to_pylist()
    return [_value(scalar, moment) for scalar in column]


def python_value(scalar: pa.Scalar) -> Any:
    """The moment as Python's, or as a text where Python has none such."""
    try:
        return scalar.as_py()
    except (OverflowError, ValueError, pa.ArrowException):
        return text(scalar)


def text(scalar: pa.Scalar) -> str:
    """The moment as Arrow writes it, or else as NumPy does."""
    kind, number = scalar.type, scalar.value
    if pa.types.is_duration(kind):
        return str(np.timedelta64(number, kind.unit))
    try:
        if not _beyond(pa.array([number]).cast(_storage(kind)).cast(_without_zone(kind))):
            return str(scalar.cast(pa.string()).as_py())
    except pa.ArrowException:
        pass  # a zone that is not known here
    if abs(number) >= (1 << kind.bit_width - 1) - 1:
        return "infinity" if number > 0 else "-infinity"
    unit: Any = "D" if pa.types.is_date32(kind) else "ms" if pa.types.is_date64(kind) else kind.unit
    day, _, time = str(np.datetime64(number, unit)).partition("T")
    zone = "+00:00" if pa.types.is_timestamp(kind) and kind.tz else ""
    return time if pa.types.is_time(kind) else f"{day} {time}".rstrip() + zone


def as_texts(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """`column` as values of `kind`, which has texts where its own type has moments."""
    try:
        if not any(_beyond(leaf.cast(_without_zone(leaf.type))) for leaf in leaves(column) if _is_moment(leaf.type)):
            return column.cast(kind)
    except pa.ArrowException:
        pass  # a zone that is not known here, or nested values that Arrow does not cast
    return pa.chunked_array([pa.array(values(column, text), kind)])


def leaves(column: pa.Array | pa.ChunkedArray) -> Iterator[pa.Array]:
    """The arrays of plain values that `column` is made of."""
    for array in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        kind = array.type
        if isinstance(array, pa.ExtensionArray):
            yield from leaves(array.storage)
        elif pa.types.is_dictionary(kind):
            yield from leaves(array.dictionary)
        elif pa.types.is_map(kind):
            yield from leaves(array.keys)
            yield from leaves(array.items)
        elif pa.types.is_struct(kind):
            for field in array.flatten():
                yield from leaves(field)
        elif hasattr(array, "flatten") and kind.num_fields:
            yield from leaves(array.flatten())
        else:
            yield array


def kinds(kind: pa.DataType) -> Iterator[pa.DataType]:
    """The types of plain values in values of that type."""
    if isinstance(kind, pa.BaseExtensionType):
        yield from kinds(kind.storage_type)
    elif pa.types.is_dictionary(kind):
        yield from kinds(kind.value_type)
    elif kind.num_fields:
        for place in range(kind.num_fields):
            yield from kinds(kind.field(place).type)
    else:
        yield kind


def _value(scalar: pa.Scalar, moment: Callable[[pa.Scalar], Any]) -> Any:
    if not scalar.is_valid:
        return None
    if _is_moment(scalar.type):
        return moment(scalar)
    if isinstance(scalar, pa.StructScalar):
        return {name: _value(one, moment) for name, one in scalar.items()}
    if isinstance(scalar, pa.MapScalar):
        return [tuple(_value(one, moment) for one in entry.values()) for entry in scalar.values]
    if isinstance(scalar, pa.ListScalar):
        return [_value(one, moment) for one in scalar.values]
    if isinstance(scalar, pa.DictionaryScalar | pa.UnionScalar | pa.RunEndEncodedScalar | pa.ExtensionScalar):
        return _value(scalar.value, moment)
    return scalar.as_py()


def _is_moment(kind: pa.DataType) -> bool:
    return pa.types.is_temporal(kind) and not pa.types.is_interval(kind)


def _without_zone(kind: pa.DataType) -> pa.DataType:
    return pa.timestamp(kind.unit) if pa.types.is_timestamp(kind) else kind


def _storage(kind: pa.DataType) -> pa.DataType:
    return pa.int32() if kind.bit_width == 32 else pa.int64()


def _beyond(moments: pa.Array) -> bool:
    """Whether Arrow has no text for one of these moments."""
    return bool(pc.any(pc.starts_with(moments.cast(pa.string()), _BEYOND)).as_py())
