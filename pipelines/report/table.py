"""Tables of figures as text that fits a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.report.figures import Change, Figure, FigureTable, Value
from pipelines.report.renderer import Renderer, Report
from schemas.process import terminal

Cells = Sequence[Sequence[str]]


def texts(report: Report) -> str:
    """All tables, an empty line in front of each."""
    return "\n".join(f"\n{text(table)}" for table in report.tables)


def text(table: FigureTable) -> str:
    """The title; the figures, a line for each row where that fits, and otherwise a column for each row, in as many
    blocks as needed; what the figures mean; and its notes.
    """
    names, rows = [column.name for column in table.columns], cells(table)
    across = _aligned([names, *rows])
    ruled = [across[0], "  ".join("-" * width for width in _widths([names, *rows])), *across[1:]]
    body = ruled if len(ruled[0]) <= terminal.width() else list(_blocks(names, rows))
    meanings = [(column.name, column.meaning) for column in table.columns if column.meaning]
    notes = [terminal.wrapped(note) for note in table.notes]
    return "\n".join([terminal.wrapped(table.title), *body, *terminal.table(meanings, "  "), *notes])


def cells(table: FigureTable) -> tuple[tuple[str, ...], ...]:
    """What stands in a table's cells, row by row: each number in its column's form, "-" where there is none."""
    return tuple(tuple(_cell(*pair) for pair in zip(table.columns, row, strict=True)) for row in table.rows)


def changes(table: FigureTable) -> list[Change]:
    """What the columns of a table name as changed, of several rows before the first and after the last; nothing of what
    was not measured.
    """
    ends: dict[str, list[int]] = {}
    for at, column in enumerate(table.columns):
        if column.change:
            ends.setdefault(column.change, []).append(at)
    made = [Change(name, _end(table, 0, at[0]), _end(table, -1, at[-1])) for name, at in ends.items() if table.rows]
    return [one for one in made if "-" not in (one.before, one.after)]


def _end(table: FigureTable, row: int, column: int) -> str:
    """The cell there; of one with several values the first, or the last."""
    value = table.rows[row][column]
    return _cell(table.columns[column], value[row] if isinstance(value, tuple) else value)


def _blocks(names: Sequence[str], rows: Cells) -> Iterator[str]:
    """The names down the left side, and beside them as many rows as there is room for, each as a column."""
    rest = list(rows)
    while rest:
        count = len(rest)
        while count > 1 and len(_beside(names, rest[:count])[0]) > terminal.width():
            count -= 1
        yield from _beside(names, rest[:count])
        rest = rest[count:]
        if rest:
            yield ""


def _beside(names: Sequence[str], rows: Cells) -> list[str]:
    left = max(map(len, names))
    columns = _aligned(list(zip(*rows, strict=True)))
    return [f"{name:<{left}}  {cells}" for name, cells in zip(names, columns, strict=True)]


def _widths(rows: Cells) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _aligned(rows: Cells) -> list[str]:
    """Each row as a line, its cells flush right below each other."""
    widths = _widths(rows)
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


_MOST_DIGITS = 1e15
"""Numbers from here on are shown with an exponent, whatever their column's form: a line would be hundreds of digits."""


def _cell(column: Figure, value: Value | tuple[Value, ...]) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return column.between.join(_shown(one, column.form) for one in values)


def _shown(value: Value, form: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:{form}}" if abs(value) < _MOST_DIGITS else f"{value:.3g}"


TABLE = Renderer(name="table", render=texts)
