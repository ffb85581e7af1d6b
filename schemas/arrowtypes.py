"""Arrow types as plain JSON and back, for the manifest: a schema is known without opening a shard, and
without Arrow IPC, whose reader crashes on crafted bytes.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from schemas.errors import DataError, printable

_PLAIN = {
    str(kind): kind
    for kind in (
        pa.null(), pa.bool_(), pa.string(), pa.large_string(), pa.binary(), pa.large_binary(),
        pa.date32(), pa.date64(),
        pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
        pa.float16(), pa.float32(), pa.float64(),
        *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")),
        *(pa.timestamp(unit, "UTC") for unit in ("s", "ms", "us", "ns")),
        *(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),
    )
}  # fmt: skip
_DEPTH = 32


def type_to_json(kind: pa.DataType) -> Any:
    """A name, or `{"list": field}`, `{"struct": [field, ...]}`; `DataError` for types that datasets do not
    hold.
    """
    if str(kind) in _PLAIN:
        return str(kind)
    if pa.types.is_fixed_size_list(kind):
        return {"fixed_size_list": _field_to_json(kind.value_field), "size": kind.list_size}
    if pa.types.is_list(kind):
        return {"list": _field_to_json(kind.value_field)}
    if pa.types.is_large_list(kind):
        return {"large_list": _field_to_json(kind.value_field)}
    if pa.types.is_struct(kind):
        return {"struct": [_field_to_json(field) for field in kind]}
    raise DataError(
        "column-type",
        f"datasets hold no columns of type {printable(kind)}",
        expected="text, bytes, numbers, times (of no zone or UTC), lists and structs of these",
        kept="nothing was written",
        next="cast that column: a map to a list of structs, a dictionary to its values, a time to UTC",
    )


def type_from_json(data: Any, depth: int = 0) -> pa.DataType:
    """Inverse of `type_to_json`; ValueError, KeyError or TypeError for anything else."""
    if depth > _DEPTH:
        raise ValueError("types are nested too deep")
    if isinstance(data, str):
        return _PLAIN[data]
    if "list" in data:
        return pa.list_(_field_from_json(data["list"], depth))
    if "large_list" in data:
        return pa.large_list(_field_from_json(data["large_list"], depth))
    if "fixed_size_list" in data:
        return pa.list_(_field_from_json(data["fixed_size_list"], depth), int(data["size"]))
    return pa.struct([_field_from_json(field, depth) for field in data["struct"]])


def _field_to_json(field: pa.Field) -> dict[str, Any]:
    return {"name": field.name, "type": type_to_json(field.type), "nullable": field.nullable}


def _field_from_json(data: Any, depth: int) -> pa.Field:
    if not isinstance(data["name"], str) or not isinstance(data["nullable"], bool):
        raise TypeError("a field needs a name and whether it may be null")
    return pa.field(data["name"], type_from_json(data["type"], depth + 1), nullable=data["nullable"])
