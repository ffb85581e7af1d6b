"""Values as SQL text: names and texts come from manifests, which anybody may have written."""

from __future__ import annotations

import re

import pyarrow as pa

_KINDS = {
    pa.bool_(): "BOOLEAN", pa.string(): "VARCHAR", pa.binary(): "BLOB",
    pa.int8(): "TINYINT", pa.int16(): "SMALLINT", pa.int32(): "INTEGER", pa.int64(): "BIGINT",
    pa.uint8(): "UTINYINT", pa.uint16(): "USMALLINT", pa.uint32(): "UINTEGER", pa.uint64(): "UBIGINT",
    pa.float16(): "FLOAT", pa.float32(): "FLOAT", pa.float64(): "DOUBLE",
    pa.date32(): "DATE", pa.date64(): "DATE", pa.null(): "INTEGER",
    pa.timestamp("ns"): "TIMESTAMP_NS",
}  # fmt: skip
_WILD = re.compile(r"[*?\[]")


def name(text: str) -> str:
    """`text` as an identifier, quoted."""
    return '"' + text.replace('"', '""') + '"'


def literal(text: str | None) -> str:
    """`text` as a literal, or NULL for none."""
    return "NULL" if text is None else "'" + text.replace("'", "''") + "'"


def path(text: str) -> str:
    """A file, for a function that takes patterns: it stands for itself alone."""
    return literal(_WILD.sub(lambda wild: f"[{wild[0]}]", text))


def kind(of: pa.DataType) -> str:
    """The type that DuckDB reads a Parquet column of this Arrow type as."""
    if pa.types.is_large_string(of) or pa.types.is_large_binary(of):
        return "VARCHAR" if pa.types.is_large_string(of) else "BLOB"
    if pa.types.is_list(of) or pa.types.is_large_list(of) or pa.types.is_fixed_size_list(of):
        return f"{kind(of.value_type)}[]"
    if pa.types.is_struct(of):
        return f"STRUCT({', '.join(f'{name(field.name)} {kind(field.type)}' for field in of)})"
    if pa.types.is_timestamp(of):
        return "TIMESTAMP WITH TIME ZONE" if of.tz else _KINDS.get(of, "TIMESTAMP")
    return _KINDS.get(of, "BIGINT")
