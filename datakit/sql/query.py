"""sql.query: a dataset given as one SELECT over others: a blend, a join, preference pairs.

    Query(tables=("samples", "rewards"), query="SELECT * FROM samples JOIN rewards USING (sample_id)")

The text is checked before the run: one SELECT, over the named tables only, of listed clauses and of functions
that depend on their arguments alone. It runs in a child process with a cap on memory and time (`child`), in
one thread, spilling where memory ends. Its rows stand in the order that the query gives them; the inputs come
in the order of their shards, so what depends on the order of rows (`first`, `row_number() OVER ()`, LIMIT
without ORDER BY) is the same in every run of one version of DuckDB. Write ORDER BY where order matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from datakit.duck.child import SqlError, SqlProcess, shared
from datakit.duck.messages import misnamed, one_line
from datakit.duck.streamed import batches_of, gathered
from datakit.duck.tree import STATEMENTS, refused
from datakit.op import NOTHING, Blend, Context, Result, Size
from schemas import Column, Schema
from schemas.canonical import DEFAULT_UNNAMED
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError, printable
from schemas.schema import same_type

_MEMORY = 4096
_SECONDS = 3600
_LONGEST = 100_000


@dataclass(frozen=True, kw_only=True)
class Query(Blend):
    """The rows of `query` over the inputs, named in order by `tables`; `kind` and `key` name what comes out.

    A column that keeps an input column's name and type keeps its meaning, and must have no nulls if that one
    had none. Numbers of float16 come out as float32.
    """

    name: ClassVar[str] = "sql.query"
    renames: ClassVar[bool] = True
    mends_repeats: ClassVar[str] = "name columns that tell these rows apart as the key, or none: quiver Query --key -"

    query: str
    tables: tuple[str, ...]
    kind: str = "rows"
    key: tuple[str, ...] = ()
    times: float = 1.0
    """Rows that come out for each that goes in, as an estimate of disk room needs them; no part of the identity."""
    required: tuple[str, ...] = field(default=(), metadata=DEFAULT_UNNAMED)
    """Columns of the query's own that hold no null."""

    def __post_init__(self) -> None:
        names = [name.lower() for name in self.tables]
        if not names or len(set(names)) != len(names) or not all(name.isidentifier() for name in names):
            raise ConfigError("bad-setting", f"sql.query: tables {self.tables}", expected="plain names, each once")

    def params(self) -> dict[str, Any]:
        """Settings that decide the rows."""
        return {name: value for name, value in super().params().items() if name != "times"}

    @property
    def takes(self) -> Schema:
        """Any rows: which columns are read depends on the query and is checked in `gives`."""
        return NOTHING

    def gives(self, *inputs: Schema) -> Schema:
        """The columns that come out; `ConfigError` where the query cannot be bound or may not run."""
        if len(inputs) != len(self.tables):
            raise self._fault(f"needs {len(self.tables)} inputs, got {len(inputs)}")
        given = zip(self.tables, inputs, strict=True)
        empty = {name: schema.arrow.remove_metadata().empty_table() for name, schema in given}
        with shared() as process:
            try:
                self._check(process)
                bound = self._bound(process, empty)
            except SqlError as error:
                fault = self._fault(f"cannot be bound: {printable(one_line(error), 200)}")
                fault.missing = error.missing
                wrong, fault.nearest = misnamed(str(error))
                fault.wrong = (wrong,) if wrong else ()
                raise fault from error
            except DataError as error:  # a limit of the child: met by the text itself, before any row
                raise self._fault(f"cannot be worked out: {error.what}") from error
        known = [column for schema in inputs for column in schema.widened().columns]
        columns = [
            next((c for c in known if c.name == made.name and same_type(c.type, made.type)), None)
            or Column(made.name, made.type, "of the query", nullable=made.name not in self.required)
            for made in bound
        ]
        missing = [name for name in (*self.key, *self.required) if name not in bound.names]
        if missing or len(set(bound.names)) != len(bound.names):
            raise self._fault(
                f"gives {', '.join(bound.names)}, which must be different names and hold the key and what is required"
            )
        if empty_of := [c.name for c in columns if pa.types.is_null(c.type) and (not c.nullable or c.name in self.key)]:
            raise self._fault(
                f"gives nothing but NULL as {', '.join(empty_of)}, which has no nulls in rows of this kind"
            )
        return Schema(self.kind, 1, tuple(columns), self.key)

    def grown(self, given: Size) -> Size:
        return given.times(self.times)

    def blend(self, inputs: Sequence[Dataset], ctx: Context) -> Iterator[Result]:
        """The rows of the query, in its order."""
        schema = self.gives(*(given.schema for given in inputs))
        with SqlProcess(memory=_MEMORY, seconds=_SECONDS) as process:
            for name, given in zip(self.tables, inputs, strict=True):
                process.load(name, given.schema.arrow.remove_metadata(), batches_of(given))
            yield Result(schema.empty())
            try:
                for rows in gathered(process.ask(self.query)):
                    yield Result(schema.conform(rows))
            except SqlError as error:
                raise DataError(
                    "sql-failed",
                    f"sql.query failed: {printable(one_line(error), 200)}",
                    kept="the inputs; nothing of this output",
                    next="write TRY_CAST for CAST, or leave out the rows that it cannot do",
                ) from error

    def _check(self, process: SqlProcess) -> None:
        """One SELECT over the named tables, of listed clauses and functions."""
        if len(self.query) > _LONGEST:
            raise self._fault(f"is longer than {_LONGEST} characters")
        [parsed] = process.parse(self.query)
        if parsed["error"] or len(parsed["statements"]) != 1:
            raise self._fault(f"is not one SELECT: {printable(parsed.get('error_message', 'none, or several'), 200)}")
        reason = refused(parsed, STATEMENTS, frozenset(name.lower() for name in self.tables))
        if reason:
            raise self._fault(reason)

    def _bound(self, process: SqlProcess, empty: Mapping[str, pa.Table]) -> pa.Schema:
        alone = self.query.rstrip("; \t\r\n")
        names = process.table(f"DESCRIBE {alone}", empty)["column_name"].to_pylist()
        return process.table(f"SELECT * FROM (\n{alone}\n) LIMIT 0", empty).rename_columns(names).schema

    def _fault(self, what: str) -> ConfigError:
        text = f"the query {printable(self.query)!r} {what}"
        return ConfigError(
            "query", text, expected=f"one SELECT over {', '.join(self.tables)}", kept="nothing was started"
        )
