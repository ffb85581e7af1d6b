"""What outside files hold besides the keys that a format reads: counted and reported, or typed to be carried along."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.timestamps import as_texts
from datakit.formats.keys import TEXT, Key
from datakit.formats.lines import Block, Fault
from datakit.formats.parse import BESIDE, Parsed, loaded
from schemas.errors import DataError, counted
from schemas.manifest import Manifest
from schemas.store.storage import shown

LEFT_OUT = "left_out."
"""What counts of names that were not read begin with."""
MARKED = "marked_texts"
"""The count of texts in which marks stand between turns."""


def left_counts(parsed: Parsed) -> dict[str, float]:
    """Counts for a result: how many rows held each name that was not read, and how many texts have marks."""
    counts = {LEFT_OUT + name: float(count) for name, count in parsed.left.items()}
    marked = _with_marks(parsed.table)
    return counts | ({MARKED: float(marked)} if marked else {})


def _with_marks(table: pa.Table) -> int:
    """How many texts begin as NeMo-Aligner begins a dialogue."""
    texts = [column.combine_chunks() for column in table.columns]
    texts = [column.flatten() if pa.types.is_list(column.type) else column for column in texts]
    texts = [column.field("content") if _has_content(column.type) else column for column in texts]
    begun = [pc.starts_with(column, "<extra_id_0>System\n") for column in texts if column.type == pa.string()]
    return sum(pc.sum(column).as_py() or 0 for column in begun)


def _has_content(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index("content") >= 0


def marks_as_text(manifest: Manifest) -> tuple[str, ...]:
    """A line about marks of dialogues that were read as text; none where no text has them."""
    count = int(manifest.stats.get("counts", {}).get(MARKED, 0))
    line = f"{counted(count, 'text')} with NeMo-Aligner's marks (<extra_id_1>), read as text"
    return (f"{line}: as turns with --dialogue extra_id",) if count else ()


def left_out(manifest: Manifest) -> tuple[str, ...]:
    """One line about all names that were not read, most rows first; none where everything was."""
    counts = manifest.stats.get("counts", {})
    names = {name.removeprefix(LEFT_OUT): int(count) for name, count in counts.items() if name.startswith(LEFT_OUT)}
    if not names:
        return ()
    ordered = sorted(names, key=lambda name: (-names[name], name))
    units = {name: "file" if name.startswith(BESIDE) else "row" for name in ordered}
    listed = ", ".join(f"{name} ({counted(names[name], units[name])})" for name in ordered)
    plain = next((name for name in ordered if not name.startswith(("turns' ", BESIDE))), "")
    hint = f"; to carry one along: --keep {shlex.quote(plain)}" if plain else ""
    return (f"left out: {listed}{hint}",)


def keys_at(paths: Sequence[str]) -> tuple[Key, ...]:
    """The keys at these paths, as texts where the file has no types of its own."""
    return tuple(Key(path, TEXT, required=False, mapped=path) for path in paths)


def types_in(paths: Sequence[str], blocks: Iterable[Block]) -> tuple[tuple[str, str], ...]:
    """The type of each path's values over all lines: bool, int64, double, string, or json where a value is nested or
    kinds differ.
    """
    keys = keys_at(paths)
    kinds: list[set[str]] = [set() for _ in keys]
    for block in blocks:
        for number, line in zip(block.numbers.tolist(), block.data.split(b"\n"), strict=False):
            record = loaded(line, number)
            if isinstance(record, Fault) or not isinstance(record[0], dict):
                continue
            for key, types in zip(keys, kinds, strict=True):
                name, value = key.value_in(record[0])
                if name:
                    types.add(_kind(value))
    return tuple((path, _common(types)) for path, types in zip(paths, kinds, strict=True))


def types_of(paths: Sequence[str], tables: Iterable[pa.Table]) -> tuple[tuple[str, str], ...]:
    """As `types_in`, of the rows of tables."""
    keys = keys_at(paths)
    kinds: list[set[str]] = [set() for _ in keys]
    roots = {root for path in paths for root in (path, path.partition(".")[0])}
    for table in tables:
        for record in table.select([name for name in table.column_names if name in roots]).to_pylist():
            for key, types in zip(keys, kinds, strict=True):
                name, value = key.value_in(record)
                if name:
                    types.add(_kind(value))
    return tuple((path, _common(types)) for path, types in zip(paths, kinds, strict=True))


def carried(table: pa.Table, paths: Sequence[str], url: str) -> pa.Table:
    """`table` with what `paths` name in the types in which it is carried along: whole numbers int64, others double,
    dates and times ISO texts, inside of nested values too. `DataError` for a type that cannot be carried.
    """
    for path in paths:
        root, *inner = [path] if path in table.column_names else path.split(".")
        if root not in table.column_names:
            continue
        column = table[root]
        wrong = _uncarried(_inside(column.type, inner))
        if not inner and pa.types.is_uint64(column.type) and (pc.max(column).as_py() or 0) >= 1 << 63:
            wrong = column.type
        if wrong is not None:
            raise DataError(
                "column-type",
                f"{shown(path)} of {shown(url)} cannot be carried along: it holds values of the type {wrong}",
                expected="texts, truth values, numbers (whole: below 2**63), dates, times, lists or objects of them",
                found=str(column.type),
                kept="nothing was published",
                next="leave it out of keep, or write the file with that column cast to a text or a number",
            )
        kind = _carried(column.type)
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            kind = pa.int64() if pa.types.is_integer(kind) else pa.float64()
        if kind != column.type:
            table = table.set_column(table.column_names.index(root), root, as_texts(column, kind))
    return table


def _inside(kind: pa.DataType, path: Sequence[str]) -> pa.DataType:
    """The type at a path below one; null where there is none."""
    for part in path:
        if pa.types.is_struct(kind):
            place = kind.get_field_index(part)
            kind = kind.field(place).type if place >= 0 else pa.null()
        else:
            kind = kind.value_type if _is_list(kind) else pa.null()
    return kind


def _uncarried(kind: pa.DataType) -> pa.DataType | None:
    """The type in `kind` that JSON has no value for, nor text an obvious one; None where there is none."""
    if kind.num_fields:
        inner = (_uncarried(kind.field(place).type) for place in range(kind.num_fields))
        return next((wrong for wrong in inner if wrong is not None), None)
    if pa.types.is_dictionary(kind):
        return _uncarried(kind.value_type)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return None if is_text or is_number or _is_time(kind) or pa.types.is_null(kind) else kind


def _carried(kind: pa.DataType) -> pa.DataType:
    """`kind` with texts for dates and times, and values for what stands in a dictionary."""
    if pa.types.is_dictionary(kind):
        return _carried(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _carried(field.type)) for field in kind])
    if _is_list(kind):
        return pa.list_(_carried(kind.value_type))
    return pa.string() if _is_time(kind) else kind


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_time(kind: pa.DataType) -> bool:
    return pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if -(1 << 63) <= value < 1 << 63 else "json"
    if isinstance(value, float):
        return "double"
    return "string" if isinstance(value, str) else "json"


def _common(kinds: set[str]) -> str:
    if not kinds:
        return "string"
    if kinds == {"int64", "double"}:
        return "double"
    return kinds.pop() if len(kinds) == 1 else "json"
