"""A table of rows that one pages through, searches and sorts in a notebook.

    browse(samples)                                  conversations by turn, what is learnt of a text in colour
    browse(samples.sql("FROM self WHERE reward > 1"), ["messages", "response", "reward"])
    browse(tokens, tokenizer="quiver-data/digits/tokenizer-3f2a91c0")

The table is itables' (extra `notebooks`), whose script comes with the package: nothing is asked of a network. Without
it, and where scripts do not run, it is the first rows as plain HTML.
"""

from __future__ import annotations

import html
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from datakit.browse.cells import cell_of, marked
from datakit.tokenizers.masked_text import MaskedRow, masked_text
from datakit.tokenizers.tokenizer import Tokenizer
from schemas.dataset import Dataset
from schemas.errors import ConfigError, counted, printable
from schemas.installed import with_extra
from schemas.nearest import nearest
from schemas.rows.tokens import sequence_columns
from schemas.store.commit import read_manifest
from schemas.store.storage import normal

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation
    from polars import DataFrame

    Rows: TypeAlias = Dataset | pa.Table | DataFrame | DuckDBPyRelation

MOST = 500
"""Rows that a browser holds unless more are asked for."""

_STATIC, _PAGE = 20, 5
_loaded: set[str] = set()
"""Whether this process has put the table's script into a notebook: once is enough for all its tables."""


def browse(
    rows: Rows, columns: Sequence[str] | None = None, *, most: int = MOST, tokenizer: Tokenizer | str | None = None
) -> Browser:
    """The first `most` rows of a dataset, an Arrow table, a polars frame or a DuckDB relation.

    Without `columns`, those with ids of tokens or other lists of numbers, and those without a value, are left out.
    With their `tokenizer`, itself or where it lies (a dataset, a checkpoint, a folder), rows of tokens of a dataset are
    texts, those of its first shard that has any.
    `ConfigError` for a column that there is not.
    """
    table, total = _first(rows, most)
    texts: Mapping[str, Sequence[str]] = {}
    if tokenizer is not None and isinstance(rows, Dataset):
        table = rows.first(most)
        texts = _texts(masked_text(rows, most, _tokenizer(tokenizer)).rows)
    missing = [name for name in columns or () if name not in table.column_names]
    if missing:
        raise ConfigError(
            "unknown-column",
            f"the rows have no {printable(missing[0])}",
            expected=printable(", ".join(table.column_names), 300),
            kept="everything",
            next="browse(rows) shows what there is",
            wrong=tuple(missing),
            nearest=nearest(missing[0], table.column_names) if len(missing) == 1 else "",
        )
    chosen = list(columns) if columns is not None else [*_readable(table, texts)]
    left = [name for name in table.column_names if name not in chosen] if columns is None else []
    return Browser(tuple(_column(table, name, texts) for name in chosen), table.num_rows, total, tuple(left))


@dataclass(frozen=True)
class _Column:
    """A column as it is shown: numbers, or HTML."""

    name: str
    values: tuple[Any, ...]
    is_number: bool


@dataclass(frozen=True, repr=False)
class Browser:
    """Rows that a notebook shows; `total` is how many there are, where that is known, `left` which columns it hides."""

    columns: tuple[_Column, ...]
    rows: int
    total: int | None
    left: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{self._counted}: {', '.join(printable(one.name) for one in self.columns)}"

    def _repr_html_(self) -> str:
        note = f"{self._counted}{f'; not shown: {self._left}' if self.left else ''}"
        table = _interactive(self) if importlib.util.find_spec("itables") else _static(self)
        return f'<style>{_style()}</style><div class="qv"><div class="qv-note">{html.escape(note)}</div>{table}</div>'

    @property
    def _counted(self) -> str:
        if self.total == self.rows:
            return counted(self.rows, "row")
        return f"the first {counted(self.rows, 'row')}{'' if self.total is None else f' of {self.total:,}'}"

    @property
    def _left(self) -> str:
        return printable(", ".join(self.left), 300)


def _first(rows: Rows, most: int) -> tuple[pa.Table, int | None]:
    """The first rows, and how many there are where that is known."""
    if isinstance(rows, Dataset):
        return pa.concat_tables([rows.schema.empty(), *_head(rows, most)]), rows.num_rows
    if isinstance(rows, pa.Table):
        return rows.slice(0, most), rows.num_rows
    import duckdb

    if isinstance(rows, duckdb.DuckDBPyRelation):
        table = rows.limit(most + 1).to_arrow_table()
        return table.slice(0, most), table.num_rows if table.num_rows <= most else None
    return rows.head(most).to_arrow(), rows.height


def _head(dataset: Dataset, most: int) -> Iterator[pa.Table]:
    for shard in range(len(dataset.shards)):
        for rows in dataset.batches(shard, min(most, 4096)):
            yield rows.slice(0, most)
            most -= rows.num_rows
            if most <= 0:
                return


def _tokenizer(given: Tokenizer | str) -> Tokenizer:
    if isinstance(given, Tokenizer):
        return given
    manifest = read_manifest(normal(given))
    stored = manifest is not None and manifest.kind == "dataset"
    return Tokenizer.of_dataset(Dataset.open(given)) if stored else Tokenizer.of_folder(given)


def _texts(rows: Sequence[MaskedRow]) -> Mapping[str, Sequence[str]]:
    """The decoded texts of each column of tokens, with what is learnt marked."""
    by_column = groupby(sorted(rows, key=lambda row: row.column), key=lambda row: row.column)
    return {name: ["<hr>".join(map(marked, row.sequences)) for row in of_one] for name, of_one in by_column}


def _readable(table: pa.Table, texts: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The columns that a person reads: no lists of numbers that no text stands for, nothing that is empty."""
    masks = {part for name in texts for part in (sequence_columns(name).mask, sequence_columns(name).lengths)}
    for field, column in zip(table.schema, table.columns, strict=True):
        numbers = pa.types.is_list(field.type) and pa.types.is_primitive(field.type.value_type)
        if field.name in texts or not (numbers or field.name in masks or column.null_count == len(column)):
            yield field.name


def _column(table: pa.Table, name: str, texts: Mapping[str, Sequence[str]]) -> _Column:
    if name in texts:
        return _Column(name, tuple(texts[name]), is_number=False)
    shown, values = cell_of(table.schema.field(name).type), table[name].to_pylist()
    if shown is None:
        return _Column(name, tuple(values), is_number=True)
    return _Column(name, tuple(map(shown, values)), is_number=False)


def _static(browser: Browser) -> str:
    """The first rows as plain HTML."""
    few = replace(browser, rows=min(browser.rows, _STATIC))
    names = "".join(f"<th{_number(one)}>{html.escape(printable(one.name))}</th>" for one in few.columns)
    lines = ("".join(f"<td{_number(one)}>{_shown(one, row)}</td>" for one in few.columns) for row in range(few.rows))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    cut = f"the first {few.rows} of them; " if few.rows < browser.rows else ""
    more = f"{cut}to page, search and sort: {with_extra('notebooks')}"
    head = f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="qv-static">{head}</div><div class="qv-note">{html.escape(more)}</div>'


def _number(column: _Column) -> str:
    return ' class="qv-number"' if column.is_number else ""


def _shown(column: _Column, row: int) -> str:
    value = column.values[row]
    if not column.is_number:
        return str(value)
    return "-" if value is None else html.escape(f"{value:.6g}")


def _interactive(browser: Browser) -> str:
    """The rows in itables' table; before the first one of a process its script, for the whole notebook."""
    import itables
    import polars as pl
    from itables.javascript import generate_init_offline_itables_html

    names = {one.name: html.escape(printable(one.name)) for one in browser.columns}
    frame = pl.DataFrame({names[one.name]: list(one.values) for one in browser.columns}, strict=False)
    table = itables.to_html_datatable(
        frame,
        connected=False,
        allow_html=True,  # every cell was escaped when it was made (`cells`)
        showIndex=False,
        show_dtypes=False,
        maxBytes=0,
        classes="display compact",
        style="width:100%;table-layout:auto;caption-side:bottom;margin:0",
        pageLength=_PAGE,
        columnDefs=[{"targets": at, "type": "html"} for at, one in enumerate(browser.columns) if not one.is_number],
        lengthMenu=[_PAGE, 10, 25, 100],
        display_logo_when_loading=False,
    )
    if "itables" in _loaded:
        return table
    _loaded.add("itables")
    return generate_init_offline_itables_html(Path(itables.options.dt_bundle)) + table


@cache
def _style() -> str:
    return Path(__file__).with_name("browse.css").read_text(encoding="utf-8")
