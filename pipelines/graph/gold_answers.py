"""Gold answers that a verifier will not read, known by the first rows before a model has answered one of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pyarrow as pa

from datakit.formats.advice import alike
from datakit.formats.forms import FORMS
from datakit.formats.reader import FormatReader
from datakit.op import Context, Op
from datakit.run.output import check_rejected
from datakit.run.shapes import result_of
from pipelines.graph.from_file import first_of, reader_of_rows
from pipelines.graph.node import Node
from schemas.errors import DataError, QuiverError, printable
from schemas.store.storage import shown


def check_golds(op: Op, rows: pa.Table, source: Node, *, none_readable: bool) -> None:
    """`DataError`, as the stage itself would have it, where `op` will not read the gold answer of one of `rows`, the
    first of `source` (`none_readable`: of all of them); with the flag that has their file give one.
    """
    rejected = _unreadable(op, rows)
    if not rejected.num_rows or (none_readable and rejected.num_rows < rows.num_rows):
        return
    try:
        check_rejected(op, rejected, rows.num_rows)
    except DataError as error:
        error.kept = "nothing was started"
        read = reader_of_rows(source)
        if read is not None and rows[op.gold].null_count == rows.num_rows:
            raise _without_golds(op, read) from None
        raise


def _without_golds(op: Op, read: FormatReader) -> DataError:
    """The error of files of `read` that give no gold answers, with the key of theirs that is likely one."""
    files = printable(", ".join(map(shown, read.files)), 200)
    unread, names = sorted(first_of(read)[1]), dict(read.columns)
    known = [names.get(key.name, key.name) for key in FORMS[read.format or ""].keys if key.required]
    key = next(_readable(op, read, unread), "")
    columns = shlex.quote(json.dumps({op.gold: key}, ensure_ascii=False))
    return DataError(
        "gold-not-readable",
        f"{op.name} needs a gold answer in each row; {files} has no {op.gold}",
        expected=f"the key {op.gold}, or which key it is",
        found=printable("; not read: ".join(", ".join(keys) for keys in (known, unread) if keys), 300),
        kept="nothing was started",
        next=f"--columns {columns}" if key else f"give each row of {files} the key {op.gold}",
    )


def _readable(op: Op, read: FormatReader, unread: list[str]) -> Iterator[str]:
    """Those of the keys `unread` whose values are gold answers that `op` reads, the likeliest first."""
    likely = alike(op.gold, unread)
    for key in sorted(unread, key=lambda key: key != likely):
        with suppress(QuiverError):
            rows = first_of(replace(read, columns=tuple({**dict(read.columns), op.gold: key}.items())))[0]
            if rows is not None and not _unreadable(op, rows).num_rows:
                yield key


def _unreadable(op: Op, rows: pa.Table) -> pa.Table:
    """The rows whose gold answer `op` does not read, whatever is answered."""
    answered, empty = rows, pa.array([""] * rows.num_rows, pa.string())
    for name in [name for name in op.takes.names if name != op.gold]:
        answered = answered.drop_columns([name] if name in answered.column_names else []).append_column(name, empty)
    rejected = result_of(op, answered, Context(), op.name).rejected
    return rows.slice(0, 0) if rejected is None else rejected
