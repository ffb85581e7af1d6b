"""A block of JSON lines to columns of declared types, and a reason for every line that does not fit.

Whole blocks go through Arrow's reader. Where it refuses, the block is halved until the lines at fault stand
alone and can be named; so whether a line is taken never depends on its neighbours. Nothing is guessed: a date
stays text, a number in quotes is no number, a key given twice is a fault.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.io.lines import Block, Fault, are_objects

_CUT = 200


@dataclass(frozen=True)
class Key:
    """A key of a record: its type, whether a row must hold it, the other names it goes by, or the one name
    given.
    """

    name: str
    type: pa.DataType
    required: bool = True
    aliases: tuple[str, ...] = ()
    mapped: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names it is looked for under; the first present one wins."""
        return (self.mapped,) if self.mapped else (self.name, *self.aliases)


@dataclass(frozen=True)
class Parsed:
    """Rows (a column for each key), their line numbers, and the lines that were not taken."""

    table: pa.Table
    numbers: np.ndarray
    faults: list[Fault]


def parse(block: Block, keys: Sequence[Key]) -> Parsed:
    """Columns of `keys` out of `block`."""
    import pyarrow.json as pj

    fields = {name: pa.field(name, key.type) for key in keys for name in key.names}
    options = pj.ParseOptions(explicit_schema=pa.schema(list(fields.values())), unexpected_field_behavior="ignore")
    faults = list(block.faults)
    parts: list[tuple[pa.Table, np.ndarray]] = []
    waiting = [(block.data, block.numbers)]
    while waiting:
        data, numbers = waiting.pop()
        if not len(numbers):
            continue
        # Lines that begin with { and end with } share no object: one row a line follows from the count.
        # The reader also crashes the process on a file that begins with `null`; this keeps it away.
        sound = (block.objects and data is block.data) or are_objects(data)
        table = _read(data, len(numbers), options) if sound else None
        if table is None:
            if len(numbers) == 1:
                faults.append(diagnosis(data, int(numbers[0]), keys))
            else:
                half = len(numbers) // 2
                at = _offset(data, half)
                waiting += [(data[at:], numbers[half:]), (data[:at], numbers[:half])]
            continue
        table = _coalesced(table, keys)
        good, found = _whole(table, data, numbers, keys)
        faults += found
        parts.append((table, numbers) if good is None else (table.filter(pa.array(good)), numbers[good]))
    empty = pa.table({key.name: pa.array([], key.type) for key in keys})
    table = pa.concat_tables([part for part, _ in parts]) if parts else empty
    numbers = np.concatenate([part for _, part in parts]) if parts else np.empty(0, np.int64)
    return Parsed(table.combine_chunks(), numbers, faults)


def _read(data: bytes, rows: int, options: object) -> pa.Table | None:
    """The table of `rows` lines, or None if any of them is not one object of the declared types in clean
    text.
    """
    import pyarrow.json as pj

    try:
        table = pj.read_json(
            pa.BufferReader(data), pj.ReadOptions(use_threads=False, block_size=len(data) + 1), options
        )
        table.validate(full=True)
    except pa.ArrowException:
        return None
    return table if table.num_rows == rows else None


def _coalesced(table: pa.Table, keys: Sequence[Key]) -> pa.Table:
    def one(key: Key) -> pa.ChunkedArray:
        columns = [table[name] for name in key.names]
        return columns[0] if len(columns) == 1 else pc.coalesce(*columns)

    return pa.table({key.name: one(key) for key in keys})


def _whole(
    table: pa.Table, data: bytes, numbers: np.ndarray, keys: Sequence[Key]
) -> tuple[np.ndarray | None, list[Fault]]:
    """Which rows hold all that is required, in finite numbers and text without NUL; None if all do."""
    bad = np.zeros(len(numbers), bool)
    nul = b"\\u0000" in data
    for key in keys:
        column = table[key.name].combine_chunks()
        if key.required and column.null_count:
            bad |= np.asarray(column.is_null())
        bad |= _strange(column, nul)
    if not bad.any():
        return None, []
    lines = data.split(b"\n")
    rows = np.flatnonzero(bad)
    return ~bad, [diagnosis(lines[row], int(numbers[row]), keys) for row in rows]


def _strange(column: pa.Array, nul: bool) -> np.ndarray | bool:
    """Rows with a number that is not finite, or a NUL inside text (which Arrow takes but few readers do)."""
    kind = column.type
    if pa.types.is_floating(kind):
        return np.asarray(pc.fill_null(pc.invert(pc.is_finite(column)), False))
    if pa.types.is_list(kind):
        inner = _strange(column.flatten(), nul)
        if isinstance(inner, bool) or not inner.any():
            return False
        rows = np.zeros(len(column), bool)
        rows[np.asarray(pc.list_parent_indices(column))[inner]] = True
        return rows
    if pa.types.is_struct(kind):
        found: np.ndarray | bool = False
        for child in column.flatten():
            found = found | _strange(child, nul)
        return found
    if pa.types.is_string(kind) and nul:
        return np.asarray(pc.fill_null(pc.match_substring(column, "\x00"), False))
    return False


def _offset(data: bytes, lines: int) -> int:
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
    return int(ends[lines - 1]) + 1


def diagnosis(line: bytes, number: int, keys: Sequence[Key]) -> Fault:
    """Why this one line was not taken."""
    text = line.rstrip(b"\n")
    cut = text[:_CUT]
    try:
        plain = text.decode()
    except UnicodeDecodeError as error:
        return Fault(number, "bad-text", "UTF-8", cut, byte=error.start)
    twice: list[str] = []

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        names = [name for name, _ in pairs]
        twice.extend(name for name in set(names) if names.count(name) > 1)
        return dict(pairs)

    try:
        row = json.loads(plain, object_pairs_hook=unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        return Fault(number, "broken-json", error.msg, cut, byte=len(plain[: error.pos].encode()))
    except (ValueError, RecursionError) as error:
        return Fault(number, "not-finite" if "constant" in str(error) else "broken-json", "JSON", cut)
    if not isinstance(row, dict):
        return Fault(number, "wrong-type", "an object", cut)
    wanted = {name for key in keys for name in key.names}
    if wanted & set(twice):
        return Fault(number, "duplicate-key", f"{min(wanted & set(twice))} once", cut)
    for key in keys:
        name = next((name for name in key.names if row.get(name) is not None), None)
        if name is None:
            if key.required:
                given = any(other in row for other in key.names)
                return Fault(number, "null" if given else "missing-key", " or ".join(key.names), cut)
        elif (reason := _misfit(row[name], key.type)) is not None:
            return Fault(number, reason, f"{name}: {_named(key.type)}", cut)
    if twice:
        return Fault(number, "duplicate-key", f"{twice[0]} once", cut)
    return Fault(number, "broken-json", "one JSON object", cut)


def _no_constant(name: str) -> float:
    raise ValueError(f"constant {name}")


def _misfit(value: object, kind: pa.DataType) -> str | None:
    """The reason why `value` is not of type `kind`, if it is not."""
    if value is None:
        return None
    if pa.types.is_string(kind):
        if not isinstance(value, str):
            return "wrong-type"
        return "bad-text" if "\x00" in value or any("\ud800" <= c <= "\udfff" for c in value) else None
    if pa.types.is_boolean(kind):
        return None if isinstance(value, bool) else "wrong-type"
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        whole = not isinstance(value, bool) and isinstance(value, int | float)
        if not whole or (pa.types.is_integer(kind) and not isinstance(value, int)):
            return "wrong-type"
        return None if pa.types.is_integer(kind) or np.isfinite(float(value)) else "not-finite"  # type: ignore[arg-type]
    if pa.types.is_list(kind):
        if not isinstance(value, list):
            return "wrong-type"
        return next((reason for item in value if (reason := _misfit(item, kind.value_type))), None)
    if not isinstance(value, dict):
        return "wrong-type"
    return next((reason for f in kind if (reason := _misfit(value.get(f.name), f.type))), None)


def _named(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_named(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "{" + ", ".join(f.name for f in kind) + "}"
    return str(kind)
