"""Rows as text: a grid that fits the terminal, CSV, JSON. What stands in a cell steers no terminal."""

from __future__ import annotations

import csv
import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any

import pyarrow as pa

from quiver import plain_places
from schemas.errors import printable
from schemas.process import terminal

_LEAST, _CELL = 6, 200
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\0")
"""What a text begins with that a spreadsheet computes."""
_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)


def grid(rows: pa.Table) -> Iterator[str]:
    """The rows below the names of their columns; each row as lines of its own where they do not fit side by side."""
    names, records = rows.column_names, [*_records(rows)]
    if not records:
        yield terminal.wrapped(f"no rows ({', '.join(map(printable, names))})")
        return
    cells = [[_cell(value) for value in record] for record in records]
    widths = _fitting(
        [
            max(map(columns, (printable(name, _CELL), *column)))
            for name, column in zip(names, zip(*cells, strict=True), strict=True)
        ]
    )
    if not widths:
        for number, record in enumerate(records):
            yield from ("", f"row {number}") if number else (f"row {number}",)
            yield from plain_places.fields(dict(zip(names, map(_shown, record), strict=True)))
        return
    right = [any(test(field.type) for test in _NUMBERS) for field in rows.schema]
    for line in ([printable(name, _CELL) for name in names], *cells):
        texts = (placed(cell, width, to_right=at) for cell, width, at in zip(line, widths, right, strict=True))
        yield "  ".join(texts).rstrip()


def columns(text: str) -> int:
    """How many columns of a terminal `text` takes: two for a wide letter, none for a mark above another letter."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


def placed(cell: str, width: int, *, to_right: bool = False) -> str:
    """`cell` in `width` columns, cut where it takes more: a sentence at its end, a name in its middle, because names
    that belong together differ at their ends.
    """
    if columns(cell) > width:
        half = len(cell) if " " in cell else len(cell) // 2
        head, tail = cell[:half], cell[half:]
        while columns(head) + columns(tail) > width - 1:
            head, tail = (head, tail[1:]) if columns(tail) > columns(head) else (head[:-1], tail)
        cell = f"{head}…{tail}"
    room = " " * (width - columns(cell))
    return room + cell if to_right else cell + room


def _fitting(widths: Sequence[int]) -> list[int]:
    """The widths, the widest made narrower until all fit; none where that would leave too little of them."""
    fitted, room = list(widths), terminal.width() - 2 * (len(widths) - 1)
    while sum(fitted) > room:
        widest = max(range(len(fitted)), key=fitted.__getitem__)
        if fitted[widest] <= _LEAST:
            return []
        fitted[widest] -= 1
    return fitted


def csv_lines(batches: Iterable[pa.RecordBatch], *, formulas: bool = False) -> Iterator[str]:
    """The names of the columns, then a record a row; lists and structs as JSON, no value as no text.

    Texts that a spreadsheet would compute have an apostrophe before them, unless `formulas` are wanted.
    """
    for number, batch in enumerate(batches):
        lines = _Lines()
        writer = csv.writer(lines, lineterminator="\r\n")  # so that a text with either of the two is quoted
        rows = [batch.schema.names] if not number else []
        for record in chain(rows, _records(batch)):
            writer.writerow(map(_csv_cell, record if formulas else map(_inert, record)))
        if lines:
            yield "\n".join(lines)


class _Lines(list[str]):
    """What `csv` writes, a record an element."""

    def write(self, text: str) -> None:
        """Keep a record without the end of its line, which is not the one that a terminal wants."""
        self.append(text.removesuffix("\r\n"))


def _csv_cell(value: Any) -> Any:
    return json.dumps(plain(value)) if isinstance(value, list | dict) else plain(value)


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def json_lines(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """One array of objects, one of them a line."""
    before = "["
    for record in records:
        yield f"{before}{json.dumps(plain(dict(record)))}"
        before = ","
    yield "[]" if before == "[" else "]"


def objects(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    """The rows as objects, a column of one name each."""
    for batch in batches:
        for record in _records(batch):
            yield dict(zip(batch.schema.names, record, strict=True))


def plain(value: Any) -> Any:
    """A value as JSON knows it: moments and decimal fractions as text, whole decimals (sums of whole numbers) as whole
    numbers, bytes in hex, numbers that are none by name.
    """
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal) and value.as_tuple().exponent == 0:
        return int(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _records(rows: pa.Table | pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    from datakit.columns.timestamps import python_value, values

    return zip(*(values(column, python_value) for column in rows.columns), strict=True)


def _cell(value: Any) -> str:
    return printable(_shown(value), _CELL)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if turns := plain_places.turns(value):
        return " | ".join(turns)
    return (
        json.dumps(plain(plain_places.rounded(value)), ensure_ascii=False)
        if isinstance(value, list | dict)
        else str(value)
    )
