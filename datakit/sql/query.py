"""sql.query: a dataset given as one SELECT over others: a blend, a join, preference pairs.

    Query(tables=("samples", "rewards"), query="SELECT * FROM samples JOIN rewards USING (sample_id)")

The text is checked before the run: one SELECT, over the named tables only, whose functions depend on their
arguments alone. It runs in the locked session of `datakit.sql`, in one thread, spilling where memory ends.
Its rows stand in the order that the query gives them: write ORDER BY where order matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from datakit.op import NOTHING, Blend, Context, Result
from datakit.sql.session import Session
from datakit.sql.tree import nodes, parse, unsteady
from schemas import Column, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError, printable
from schemas.schema import same_type

_BATCH_ROWS = 65536
_MEMORY = "4GB"
_TABLE_FUNCTIONS = {"unnest", "range", "generate_series"}


@dataclass(frozen=True, kw_only=True)
class Query(Blend):
    """The rows of `query` over the inputs, named in order by `tables`; `kind` and `key` name what comes out.

    A column that keeps an input column's name and type keeps its meaning, and must have no nulls if that one
    had none.
    """

    name: ClassVar[str] = "sql.query"
    renames: ClassVar[bool] = True

    query: str
    tables: tuple[str, ...]
    kind: str = "rows"
    key: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [name.lower() for name in self.tables]
        if not names or len(set(names)) != len(names) or not all(name.isidentifier() for name in names):
            raise ConfigError("bad-setting", f"sql.query: tables {self.tables}", expected="plain names, each once")

    @property
    def takes(self) -> Schema:
        """Any rows: which columns are read depends on the query and is checked in `gives`."""
        return NOTHING

    def gives(self, *inputs: Schema) -> Schema:
        """The columns that come out; `ConfigError` where the query cannot be bound or may not run."""
        if len(inputs) != len(self.tables):
            raise self._fault(f"needs {len(self.tables)} inputs, got {len(inputs)}")
        with Session(memory="256MB", seconds=30) as session:
            self._check(session, tuple(name for schema in inputs for name in schema.names))
            for name, schema in zip(self.tables, inputs, strict=True):
                session.add(name, schema.arrow.remove_metadata().empty_table())
            bound = self._bound(session)
        known = [column for schema in inputs for column in schema.columns]
        columns = [
            next((c for c in known if c.name == field.name and same_type(c.type, field.type)), None)
            or Column(field.name, field.type, "of the query", nullable=True)
            for field in bound
        ]
        missing = [name for name in self.key if name not in bound.names]
        if missing or len(set(bound.names)) != len(bound.names):
            raise self._fault(f"gives {', '.join(bound.names)}, which must be different names and hold the key")
        return Schema(self.kind, 1, tuple(columns), self.key)

    def blend(self, inputs: Sequence[Dataset], ctx: Context) -> Iterator[Result]:
        """The rows of the query, in its order."""
        import duckdb

        schema = self.gives(*(given.schema for given in inputs))
        with Session(memory=_MEMORY) as session:
            for name, given in zip(self.tables, inputs, strict=True):
                session.load(name, given.schema.arrow.remove_metadata(), _batches(given))
            yield Result(schema.empty())
            try:
                for batch in session.batches(self.query, _BATCH_ROWS):
                    yield Result(schema.conform(pa.table(batch)))
            except duckdb.Error as error:
                raise DataError("sql-failed", f"sql.query failed: {printable(error, 200)}") from error

    def _check(self, session: Session, columns: tuple[str, ...]) -> None:
        """One SELECT over the named tables, of steady functions, without chance."""
        parsed = parse(session, self.query)
        if parsed["error"] or len(parsed["statements"]) != 1:
            raise self._fault(f"is not one SELECT: {printable(parsed.get('error_message', 'more than one'), 200)}")
        named = {name.lower() for name in self.tables}
        for node in nodes(parsed):
            named |= {entry["key"].lower() for entry in _entries(node)}
        for node in nodes(parsed):
            told = self._forbidden(node, named)
            if told:
                raise self._fault(told)
        varying = unsteady(session, parsed, columns)
        if varying is not None:
            raise self._fault(f"calls {varying}(), whose value is not a function of the rows")

    def _forbidden(self, node: dict[str, Any], named: set[str]) -> str:
        kind = node.get("type")
        if kind == "BASE_TABLE":
            outside = node["catalog_name"] or node["schema_name"] or node["table_name"].lower() not in named
            return f"reads {printable(node['table_name'])}, which is not among its tables" if outside else ""
        if kind == "TABLE_FUNCTION" and node["function"]["function_name"].lower() not in _TABLE_FUNCTIONS:
            return f"reads from {printable(node['function']['function_name'])}()"
        if kind == "SHOW_REF" or node.get("class") == "PARAMETER":
            return "holds a parameter or asks about the session"
        return "draws a sample by chance" if node.get("sample") else ""

    def _bound(self, session: Session) -> pa.Schema:
        import duckdb

        try:
            names = [row[0] for row in session.rows(f"DESCRIBE {self.query}")]
            return session.table(f"SELECT * FROM (\n{self.query}\n) LIMIT 0").rename_columns(names).schema
        except duckdb.Error as error:
            raise self._fault(f"cannot be bound: {printable(error, 200)}") from error

    def _fault(self, what: str) -> ConfigError:
        text = f"the query {printable(self.query)!r} {what}"
        return ConfigError(
            "query", text, expected=f"one SELECT over {', '.join(self.tables)}", kept="nothing was started"
        )


def _entries(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The WITH entries that a node brings."""
    found = node.get("cte_map")
    return list(found["map"]) if isinstance(found, dict) else []


def _batches(dataset: Dataset) -> Iterator[pa.RecordBatch]:
    for shard in range(len(dataset.shards)):
        for rows in dataset.batches(shard, _BATCH_ROWS):
            yield from rows.replace_schema_metadata(None).to_batches()
