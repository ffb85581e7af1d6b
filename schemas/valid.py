"""Whether the values of a table are what their types say: Arrow does not look by itself, and others crash over them.

Text that is no UTF-8 passes through Parquet without a word (pyarrow writes and reads it), ends Python with
`UnicodeDecodeError` and polars with a panic. Looking costs a fiftieth of reading or writing the same rows.
"""

from __future__ import annotations

import pyarrow as pa

from schemas.errors import DataError, printable


def require_valid(table: pa.Table, where: str) -> None:
    """`DataError` naming the first column, and its first row, whose values are not what the type says: text (also
    inside lists, structs, maps and dictionaries) in UTF-8, offsets and indices within bounds.
    """
    for number, name in enumerate(table.column_names):
        try:
            for chunk in table.column(number).chunks:
                _look(chunk)
        except pa.ArrowInvalid as fault:
            raise _fault(printable(name), table.column(number), str(fault), where) from fault


def undecodable_row(column: pa.ChunkedArray | pa.Array) -> int | None:
    """The first row with text that is no UTF-8; None where that text belongs to no row."""
    for row, value in enumerate(column):
        try:
            value.as_py()
        except UnicodeDecodeError:
            return row
    return None


def _look(array: pa.Array) -> None:
    """`ArrowInvalid` for a wrong value. Arrow's own look at a slice of lists goes through all that the lists were cut
    from; this one stays within the slice.
    """
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        offsets = array.offsets
        whole = pa.LargeListArray if pa.types.is_large_list(kind) else pa.ListArray
        parts = [array.keys, array.items] if pa.types.is_map(kind) else [array.values]
        whole.from_arrays(offsets, pa.nulls(len(parts[0]))).validate(full=True)
        first = offsets[0].as_py()
        for part in parts:
            _look(part.slice(first, offsets[-1].as_py() - first))
    elif pa.types.is_struct(kind):
        array.validate()
        for at in range(kind.num_fields):
            _look(array.field(at))
    else:
        array.validate(full=True)


def _fault(name: str, column: pa.ChunkedArray, words: str, where: str) -> DataError:
    kept = "nothing was written or handed on"
    if "UTF8" not in words:
        return DataError("bad-values", f"the column {name} is damaged", found=printable(words), where=where, kept=kept)
    row = undecodable_row(column)
    return DataError(
        "bad-text",
        f"the column {name} holds text that is no UTF-8{'' if row is None else f', first in row {row}'}",
        expected="text in UTF-8",
        found=printable(words.rsplit("Invalid: ", 1)[-1]),
        where=where,
        kept=kept,
        next="write that text in UTF-8, or drop those rows, before they come here",
    )
