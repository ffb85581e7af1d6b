"""Tables of figures as text, for a terminal."""

from __future__ import annotations

from pipelines.report.figures import Figure, FigureTable, Value
from pipelines.report.renderer import Renderer, Report


def texts(report: Report) -> str:
    """All tables, an empty line in front of each."""
    return "\n".join(f"\n{text(table)}" for table in report.tables)


def text(table: FigureTable) -> str:
    """The title, the names of the columns, a line for every row, all flush right, and the notes."""
    head = [column.name for column in table.columns]
    rows = [[_cell(*pair) for pair in zip(table.columns, row, strict=True)] for row in table.rows]
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    aligned = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    return "\n".join([table.title, aligned[0], "  ".join("-" * width for width in widths), *aligned[1:], *table.notes])


def _cell(column: Figure, value: Value | tuple[Value, ...]) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return column.between.join(_shown(one, column.form) for one in values)


def _shown(value: Value, form: str) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:{form}}"


TABLE = Renderer(name="table", render=texts)
