"""JSON written by columns: each column becomes JSON text, objects and lists are joined of such columns.

A null leaves no key in an object. What is JSON text already (tools, tool calls) goes in as it is, behind `one_line`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from json.encoder import encode_basestring

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat
from schemas.untrusted import strict_json

TEXT = pa.large_string()
"""Large, because a batch of long texts may pass two gigabytes."""

_PLAIN = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating,
    pa.types.is_boolean, pa.types.is_date, pa.types.is_timestamp, pa.types.is_null,
)  # fmt: skip

_BREAKS = "\u0085\u2028\u2029"
"""JSON may hold these as they are, but a reader that cuts lines as Python does takes them for ends."""


def is_plain(kind: pa.DataType) -> bool:
    """Whether each value of the type is one text, number, truth value, or date, with its time or without."""
    return any(one(kind) for one in _PLAIN)


def value(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """JSON text of each value of a column of plain values (`is_plain`) or lists of these; null stays null. Dates and
    times are ISO texts. A number that is not finite has no JSON and is null (rows with one are set aside before:
    `export.not_finite`).
    """
    column = flat(column)
    kind = column.type
    if pa.types.is_list(kind):
        offsets = np.concatenate([[0], np.cumsum(np.asarray(pc.fill_null(pc.list_value_length(column), 0)))])
        lists = listed(offsets, pc.fill_null(value(column.flatten()), "null"))
        return pc.if_else(column.is_valid(), lists, None)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = pa.array([None if text is None else encode_basestring(text) for text in column.to_pylist()], TEXT)
        for mark in _BREAKS if pc.any(pc.match_substring_regex(texts, f"[{_BREAKS}]")).as_py() else "":
            texts = pc.replace_substring(texts, mark, f"\\u{ord(mark):04x}")
        return texts
    if pa.types.is_floating(kind):
        column = column.cast(pa.float64())
        return pa.array([repr(x) if x is not None and math.isfinite(x) else None for x in column.to_pylist()], TEXT)
    texts = column.cast(pa.string()).cast(TEXT)
    return joined('"', texts, '"') if pa.types.is_temporal(kind) else texts


def one_line(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Texts that are JSON already, each in one line, and which of them are none: those are null. Outside of its texts
    JSON has no breaks but white space, inside of them none but `_BREAKS`, so nothing of a value changes.
    """
    kinds = texts.cast(TEXT).dictionary_encode()
    sound = pa.array([_is_json(text) for text in kinds.dictionary.to_pylist()], pa.bool_())
    lines = pc.replace_substring_regex(kinds.dictionary, "[\r\n]", " ")
    for mark in _BREAKS:
        lines = pc.replace_substring(lines, mark, f"\\u{ord(mark):04x}")
    given = pc.if_else(sound, lines, None).take(kinds.indices)
    return given.cast(texts.type), np.asarray(texts.is_valid()) & np.asarray(given.is_null())


def _is_json(text: str) -> bool:
    try:
        strict_json(text)
    except (ValueError, RecursionError):
        return False
    return True


def listed(offsets: np.ndarray, items: pa.Array) -> pa.Array:
    """Lists of JSON items, which run from one offset to the next."""
    rows = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), items)
    return joined("[", pc.binary_join(rows, pa.scalar(",", TEXT)), "]")


def record(fields: Mapping[str, pa.Array | str]) -> pa.Array:
    """Objects of JSON columns by key, in that order; a text stands for itself in every row."""
    pairs = [joined(f"{encode_basestring(key)}:", column) for key, column in fields.items()]
    inner = pc.binary_join_element_wise(*pairs, pa.scalar(",", TEXT), null_handling="skip")
    return joined("{", inner, "}")


def joined(*parts: pa.Array | str) -> pa.Array:
    """Row by row, nothing in between; null where a part is."""
    texts = [pa.scalar(part, TEXT) if isinstance(part, str) else part.cast(TEXT) for part in parts]
    return pc.binary_join_element_wise(*texts, pa.scalar("", TEXT))
