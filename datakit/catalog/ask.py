"""SQL of users over the views of a workspace, in a child that the kernel and DuckDB hold to their limits.

The child opens the catalog read-only and can read files of the workspace and no others. Before it runs a text, the text
is one SELECT over views, of listed clauses and functions, as in every query that is recorded (`query`): what it says
can neither write nor reach the session, its limits or the clock.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pyarrow as pa

from datakit.catalog.catalog_file import EVERYTHING, current_catalog
from datakit.catalog.dataset_views import add_datasets
from datakit.catalog.forensics import FORENSICS
from datakit.catalog.intact import require_intact
from datakit.catalog.workspace import read_workspace
from datakit.duck.child import SqlError, SqlProcess
from datakit.duck.messages import corrected, misnamed, one_line
from datakit.duck.tree import STATEMENTS, nodes, refused, table_name, with_names
from schemas.errors import ConfigError, DataError, QuiverError, printable
from schemas.nearest import nearest
from schemas.store.scratch import Scratch
from schemas.store.storage import normal

MEMORY, SECONDS = 1024, 60.0
"""MiB that a question may take, and seconds that it is waited for."""

_LONGEST = 100_000
_VIEWS = "SELECT schema_name, view_name FROM duckdb_views() WHERE NOT internal ORDER BY ALL"
_OF_THE_TEXT = ("Binder Error", "Parser Error", "Catalog Error")


def ask(
    root: str | os.PathLike[str], query: str, *, seconds: float = SECONDS, verify: Literal["full", "size"] = "size"
) -> Iterator[pa.RecordBatch]:
    """What `query` answers over what lies below `root` now, batch by batch; an empty batch where it has no rows.

    With `verify` "full" the SHA-256 of every file behind the tables that it names is compared before it runs, else the
    sizes. `ConfigError` for a text that is no such SELECT, `IntegrityError` for a file that is not its manifest's,
    `DataError` where rows make it fail (`sql-failed`), or it meets a limit (`sql-timeout`, `sql-memory`).
    """
    with workspace_process(root, seconds=seconds, query=query) as process:
        if verify == "full":
            tables = _check(process, query)
            require_intact(read_workspace(os.fspath(root)), query, tables)
        yield from answered(process, query)


@contextmanager
def workspace_process(
    root: str | os.PathLike[str], *, seconds: float = SECONDS, query: str = ""
) -> Iterator[SqlProcess]:
    """A child with the views over what lies below `root` now, and those of the datasets that `query` names; a question
    to it is waited for that many `seconds`.
    """
    with Scratch("quiver-catalog-") as folder:
        workspace = read_workspace(os.fspath(root))
        catalog = current_catalog(workspace, folder)
        add_datasets(catalog, workspace, query)
        with SqlProcess(memory=MEMORY, seconds=seconds, catalog=catalog, readable=normal(root)) as process:
            yield process


def answered(process: SqlProcess, query: str) -> Iterator[pa.RecordBatch]:
    """What `ask` gives, of a `workspace_process`."""
    try:
        _check(process, query)
        yield from process.ask(query)
    except SqlError as error:
        text = printable(one_line(error), 600)
        if text.startswith(_OF_THE_TEXT):
            fault = _fault(query, f"cannot be bound: {text}")
            wrong, near = misnamed(text)
            read = _read_by(process, query) if wrong and not near else ""
            fault.nearest, fault.next = (
                near,
                _corrected(query, wrong, near) or (_columns_of(read) if read else fault.next),
            )
            raise fault from None
        raise DataError(
            "sql-failed",
            f"the query failed: {text}",
            kept="everything; nothing was changed",
            next="leave out what it names, or bring that back as it was",
        ) from None


def _check(process: SqlProcess, query: str) -> set[str]:
    """The tables of `query`; `ConfigError` unless it is one SELECT over the views, of listed clauses and functions."""
    if len(query) > _LONGEST:
        raise _fault(query, f"is longer than {_LONGEST:,} characters")
    listed = process.table(_VIEWS).to_pylist()
    plain = [one["view_name"] for one in listed if one["schema_name"] == "main"]
    views = {*plain, *(f"{one['schema_name']}.{one['view_name']}" for one in listed)}
    [parsed] = process.parse(query)
    if parsed["error"] or len(parsed["statements"]) != 1:
        reason = printable(parsed.get("error_message", "none, or several"), 200)
        raise _fault(query, f"is not one SELECT: {reason}")
    reason = refused(parsed, STATEMENTS, frozenset(views))
    if reason:
        fault = _fault(query, reason)
        if _describes(parsed):
            fault.next = next(map(_columns_of, sorted(_tables(parsed) & views)), fault.next)
        inside = {name for node in nodes(parsed) for name in with_names(node)}
        for word in _tables(parsed) - views - inside:
            fault.nearest = nearest(word, sorted(views) if "." in word else [*plain, *_datasets(process)])
            fault.next = _corrected(query, word, fault.nearest) or fault.next
        raise fault
    return _tables(parsed)


def _corrected(query: str, wrong: str, right: str) -> str:
    """The command with `right` in place of the only `wrong` in the query; empty where that is not certain."""
    text = corrected(query, wrong, right)
    return f"quiver sql {shlex.quote(text)}" if text else ""


def _datasets(process: SqlProcess) -> list[str]:
    """What the datasets are called."""
    return [str(one) for one in process.table(f"SELECT DISTINCT dataset FROM {EVERYTHING}.datasets")[0].to_pylist()]


def _describes(tree: object) -> bool:
    """Whether it asks what columns a table has, as DESCRIBE and SUMMARIZE do."""
    return any(node.get("type") == "SHOW_REF" for node in nodes(tree))


def _read_by(process: SqlProcess, query: str) -> str:
    """The only table that a query reads; empty for several."""
    [parsed] = process.parse(query)
    read = _tables(parsed)
    return read.pop() if len(read) == 1 else ""


def _columns_of(table: str) -> str:
    """The command that says what columns a table has."""
    if "/" in table:
        return f"quiver show {shlex.quote(table)}"
    view = table.removeprefix(f"{EVERYTHING}.")
    return "quiver sql " + shlex.quote(f"""SELECT "column", meaning FROM columns WHERE view = '{view}'""")


def _tables(tree: object) -> set[str]:
    return {table_name(node) for node in nodes(tree) if node.get("type") == "BASE_TABLE"}


def _fault(query: str, what: str) -> QuiverError:
    return ConfigError(
        "query",
        f"the query {printable(query, 200)!r} {what}",
        expected=f"one SELECT over views ({EVERYTHING}.NAME: with all variants; {FORENSICS}.NAME: signs to read) or "
        'datasets ("NAME" of quiver ls)',
        kept="nothing was started",
        next='quiver sql "SELECT DISTINCT view FROM columns"',
    )
