"""Cells of text as values: numbers and truth values where a key asks for them, each cell that does not fit named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.formats.keys import Key
from datakit.formats.lines import Fault


def typed(
    table: pa.Table, keys: tuple[Key, ...], numbers: np.ndarray, faults: list[Fault]
) -> tuple[pa.Table, np.ndarray, list[Fault]]:
    """Cells of bytes in the types of `keys` (texts where those are nested, bytes where no key reads them), with their
    numbers, without the rows whose cells do not fit: these are added to `faults`.
    """
    kinds = {
        name: pa.string() if pa.types.is_nested(key.shape.type) else key.shape.type
        for key in keys
        for name in key.roots
    }
    good, columns, faults = np.ones(len(numbers), bool), {}, list(faults)
    for name in table.column_names:
        if name not in kinds:
            columns[name] = table[name].combine_chunks()
            continue
        values, bad, rule = _cast(table[name].combine_chunks(), kinds[name])
        columns[name] = values
        reason = "bad-text" if rule == "UTF-8" else "wrong-type"
        faults += [Fault(int(line), reason, f"{name}: {rule}") for line in numbers[good & bad]]
        good &= ~bad
    return pa.table(columns).filter(pa.array(good)), numbers[good], faults


def _cast(cells: pa.Array, kind: pa.DataType) -> tuple[pa.Array, np.ndarray, str]:
    """Cells of bytes in the type `kind`, which of them do not fit, and what was asked for."""
    none = np.zeros(len(cells), bool)
    try:
        texts = cells.cast(pa.string())
    except pa.ArrowInvalid:
        texts = [None if cell is None else cell.decode("utf-8", "replace") for cell in cells.to_pylist()]
        bad = np.array([t is not None and t.encode() != c for t, c in zip(texts, cells.to_pylist(), strict=True)], bool)
        return pa.array(pc.if_else(pa.array(bad), None, pa.array(texts, pa.string()))), bad, "UTF-8"
    if pa.types.is_string(kind):
        return texts, none, ""
    trimmed = pc.utf8_trim_whitespace(texts)
    try:
        return trimmed.cast(kind), none, str(kind)
    except pa.ArrowInvalid:  # Some cell is none of that kind: which ones is seen one by one.
        values = [_one(text, kind) for text in trimmed.to_pylist()]
        bad = np.array([isinstance(value, str) for value in values], bool)
        return pa.array([None if isinstance(v, str) else v for v in values], kind), bad, str(kind)


def _one(text: str | None, kind: pa.DataType) -> Any:
    """The value of a cell; its text where it is none of that kind."""
    try:
        return pa.scalar(text).cast(kind).as_py() if text else None
    except pa.ArrowInvalid:
        return text
