"""A restricted reader of the protocol-buffer wire format: numbers and byte strings by field number, nothing else.

Outside models are hostile until read: every length is held against what is left, nothing is allocated by what a file
claims, groups and unknown wire types are refused, and nesting is only as deep as the caller goes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from schemas.errors import DataError
from schemas.store.storage import shown

Value = int | float | bytes

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES = 10


def fields(data: bytes, where: str) -> Iterator[tuple[int, Value]]:
    """Each field's number and value in order: varints as ints, fixed-width numbers as floats, the rest as bytes.

    `DataError` where `data` is not a whole message.
    """
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at, where)
        number, kind = key >> 3, key & 7
        if not number:
            raise _broken(where, "a field without a number")
        if kind == _VARINT:
            value, at = _varint(data, at, where)
            yield number, value
        elif kind == _BYTES:
            size, at = _varint(data, at, where)
            if size > end - at:
                raise _broken(where, f"a field of {size} bytes where {end - at} are left")
            yield number, data[at : at + size]
            at += size
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
            if size > end - at:
                raise _broken(where, "it ends inside a number")
            yield number, struct.unpack_from("<f" if size == 4 else "<d", data, at)[0]
            at += size
        else:
            raise _broken(where, f"wire type {kind}")


def _varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    value = 0
    for place in range(min(_VARINT_BYTES, len(data) - at)):
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + place + 1
    raise _broken(where, "it ends inside a number, or the number does not end")


def _broken(where: str, why: str) -> DataError:
    return DataError(
        "broken-protobuf",
        f"{shown(where)} is not a whole protocol-buffer message",
        found=why,
        where=shown(where),
        kept="nothing was written",
    )
