"""A predicate in SQL text, checked before the run: one expression over the columns of a row, and nothing
else.

The text is parsed by DuckDB and its syntax tree is held against the lists of `tree` and `functions`: no
sub-select, no window, no parameter, only known columns, only functions whose value depends on their arguments
alone. Then it is bound against the empty schema, so that an unknown function or a wrong type is refused before
anything has run. All of that, and the run itself, happens in the child process of `child`.

A NaN is read as NULL and an error in a row (a failed cast, a division by zero) gives NULL: DuckDB by itself
holds NaN for greater than every number, so `reward > 0.5` would keep exactly the broken rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datakit.duck.child import SqlError, SqlProcess, shared
from datakit.duck.tree import EXPRESSIONS, nodes, refused
from schemas import Column, Schema
from schemas.errors import ConfigError, DataError, printable
from schemas.nearest import nearest

_LONGEST = 10_000
_RESULT = pa.schema([pa.field("keep", pa.bool_())])


@dataclass(frozen=True)
class Predicate:
    """A checked predicate: its text, and the columns that it reads."""

    text: str
    columns: tuple[str, ...]

    @staticmethod
    def of(text: str, schema: Schema) -> Predicate:
        """The predicate `text` over rows of `schema`; `ConfigError` (exit 2) says what is wrong with it."""
        with shared() as process:
            try:
                tree = _tree(process, text)
                reason = refused(tree, EXPRESSIONS)
                if reason:
                    raise _fault("predicate-forbidden", text, reason)
                columns = _columns(text, tree, schema)
                _bind(process, text, schema)
            except DataError as error:  # a limit of the child: met by the text itself, before any row
                raise _fault(error.slug, text, f"cannot be worked out: {error.what}") from error
        return Predicate(text, columns)

    def values(self, rows: pa.Table) -> pa.Array:
        """True, False or null for each row of `rows`, in order."""
        read = pa.table({name: _nan_to_null(rows[name]) for name in self.columns})
        if not self.columns:
            read = pa.table({"_": pa.nulls(rows.num_rows, pa.int8())})
        with shared() as process:
            try:
                values = process.table(f"SELECT TRY((\n{self.text}\n)) AS keep FROM rows", {"rows": read})
            except SqlError as error:
                message = printable(str(error).split("\n", 1)[0], 200)
                raise DataError(
                    "predicate-failed",
                    f"the predicate {printable(self.text)!r} failed: {message}",
                    kept="nothing of this output",
                    next="write TRY_CAST for CAST, or guard the rows that it cannot do",
                ) from error
        if values.schema != _RESULT or values.num_rows != rows.num_rows:
            raise DataError(
                "sql-reply",
                "the SQL process gave something else than true or false for every row",
                expected=f"{rows.num_rows} values",
                found=f"{values.num_rows} of {values.schema}",
            )
        return values["keep"].combine_chunks()


def _nan_to_null(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)


def _query(text: str) -> str:
    return f"SELECT 1 FROM rows WHERE (\n{text}\n)"


def _tree(process: SqlProcess, text: str) -> dict[str, Any]:
    """The syntax tree of the expression; the statement around it must be the one we wrote, untouched."""
    if not text.strip() or len(text) > _LONGEST:
        raise _fault("predicate-empty" if not text.strip() else "predicate-long", text, "is empty or far too long")
    try:
        parsed, plain = process.parse(_query(text), _query("true"))
        if parsed["error"]:
            raise SqlError(parsed["error_message"])
        if len(parsed["statements"]) != 1 or not isinstance(parsed["statements"][0]["node"].get("where_clause"), dict):
            raise _fault("predicate-syntax", text, "is more than one expression")
        tree: dict[str, Any] = parsed["statements"][0]["node"].pop("where_clause")
        del plain["statements"][0]["node"]["where_clause"]
        if _shape(parsed) != _shape(plain):
            raise _fault("predicate-syntax", text, "is more than one expression")
    except SqlError as error:
        reason = printable(error, 200)
        if '")"' in reason and text.count(")") <= text.count("("):
            reason = "it ends too early"  # at the bracket that stands behind it in `_query`
        raise _fault("predicate-syntax", text, f"is not an expression: {reason}") from error
    return tree


def _shape(tree: Any) -> Any:
    """`tree` without positions in the text and without the list of its parameters, which are refused by
    themselves.
    """
    if isinstance(tree, dict):
        return {
            key: _shape(value) for key, value in tree.items() if not key.startswith(("query_location", "named_param"))
        }
    return [_shape(value) for value in tree] if isinstance(tree, list) else tree


def _columns(text: str, tree: dict[str, Any], schema: Schema) -> tuple[str, ...]:
    """The columns that the expression reads, in the schema's order; lambda parameters are not columns."""
    known = {name.lower(): name for name in schema.names}
    lambdas = [node["lhs"] for node in nodes(tree) if node.get("class") == "LAMBDA"]
    bound = {node["column_names"][0].lower() for node in nodes(lambdas) if "column_names" in node}
    read = set()
    for node in nodes(tree):
        if node.get("class") != "COLUMN_REF":
            continue
        path = [part.lower() for part in node["column_names"]]
        name = path[1] if path[0] == "rows" and "rows" not in known and len(path) > 1 else path[0]
        if name in known:
            read.add(known[name])
        elif name not in bound:
            fault = _fault("unknown-column", text, f"reads a column {printable(name)} that is not there", schema)
            fault.missing = fault.wrong = (name,)
            fault.nearest = nearest(name, schema.names)
            raise fault
    return tuple(name for name in schema.names if name in read)


def _bind(process: SqlProcess, text: str, schema: Schema) -> None:
    given = {"rows": schema.arrow.remove_metadata().empty_table()}
    try:
        process.table(_query(text), given)
        kind = process.table(f"DESCRIBE SELECT (\n{text}\n) AS keep FROM rows", given)["column_type"][0].as_py()
    except SqlError as error:
        message = printable(str(error).split("\n", 1)[0], 200)
        raise _fault("predicate-binding", text, f"cannot be bound: {message}", schema) from error
    if kind != "BOOLEAN":
        raise _fault("predicate-type", text, f"gives {kind}, not true or false", schema)


def _described(text: str, column: Column) -> str:
    """The name of a column, with its type where the predicate `text` reads it."""
    return f"{column.name}: {printable(column.type, 60)}" if re.search(rf"\b{column.name}\b", text) else column.name


def _fault(slug: str, text: str, what: str, schema: Schema | None = None) -> ConfigError:
    return ConfigError(
        slug,
        f"the predicate {printable(text)!r} {what}",
        expected="one SQL expression over the row's columns, true or false" if schema is None else "",
        found="" if schema is None else f"columns {', '.join(_described(text, c) for c in schema.columns)}",
        kept="nothing was started",
    )
