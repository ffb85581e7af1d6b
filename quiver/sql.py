"""`quiver sql QUERY`: one SELECT over the views of a workspace, as a grid, CSV, JSON or a Parquet file."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import count

import pyarrow as pa
import pyarrow.parquet as pq

from quiver import grid
from quiver.command import Command
from quiver.workspace_root import root_of
from schemas.errors import ConflictError, counted, escaped
from schemas.process import terminal
from schemas.store.storage import guarded, normal, shown

_MOST = 40
"""Rows of a grid."""
_FORMATS = ("csv", "json", "parquet")


def sql(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """The answer in the form that the flags ask for."""
    from datakit.catalog.ask import ask

    words, options = command.parsed(arguments)
    lost = "formulas" in options and "csv" not in options
    if len(words) != 1 or lost or sum(name in options for name in _FORMATS) > 1:
        text = shlex.quote(words[0]) if len(words) == 1 else '"SELECT DISTINCT view FROM columns"'
        raise command.wrong(" ".join(arguments) or "no query", f"{command.call} {text}")
    if "parquet" in options:
        _check_free(options["parquet"])
    batches = ask(root_of(options), words[0], verify="full" if "verify" in options else "size")
    if "csv" in options:
        lines = grid.csv_lines(batches, formulas="formulas" in options)
        return map(escaped, lines) if sys.stdout.isatty() else lines
    if "json" in options:
        return grid.json_lines(grid.objects(_named_apart(batches)))
    return [_stored(_named_apart(batches), options["parquet"])] if "parquet" in options else [*_first(batches)]


def _named_apart(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, further columns of one name as DuckDB calls them in a table: `rows`, `rows_1`, `rows_2`."""
    with closing(batches):  # type: ignore[type-var]
        for batch in batches:
            names: dict[str, str] = {}
            for one in batch.schema.names:
                fresh = (f"{one}_{number}" if number else one for number in count())
                name = next(fit for fit in fresh if fit.lower() not in names)
                names[name.lower()] = name
            yield batch.rename_columns([*names.values()])


def _first(batches: Iterator[pa.RecordBatch]) -> Iterator[str]:
    """The first rows, and how all are had where there are more."""
    taken: list[pa.RecordBatch] = []
    with closing(batches):  # type: ignore[type-var]
        for batch in batches:
            taken.append(batch)
            if sum(one.num_rows for one in taken) > _MOST:
                break
    rows = pa.Table.from_batches(taken)
    yield from grid.grid(rows.slice(0, _MOST))
    if rows.num_rows > _MOST:
        yield from ("", terminal.wrapped(f"the first {_MOST} rows; all of them: --csv, --json or --parquet FILE"))


def _check_free(file: str) -> None:
    if os.path.lexists(normal(file)):
        raise ConflictError(
            "out-taken",
            f"{shown(file)} is there already",
            expected="a new file",
            where=shown(file),
            kept="what is there; nothing was started",
            next="--parquet another.parquet",
        )


def _stored(batches: Iterator[pa.RecordBatch], file: str) -> str:
    """Write all rows to `file`, whole or not at all, and over nothing."""
    place = normal(file)
    fresh, rows = f"{place}.{os.urandom(8).hex()}", 0
    try:
        with guarded("write", place):
            first = next(batches)
            with pq.ParquetWriter(fresh, first.schema, compression="zstd") as writer:
                for batch in (first, *batches):
                    writer.write_batch(batch)
                    rows += batch.num_rows
            try:
                os.link(fresh, place)
            except FileExistsError:
                _check_free(file)
    finally:
        with suppress(OSError):
            os.unlink(fresh)
    return f"{counted(rows, 'row')} in {shown(file)}"
