"""A DuckDB session that can do nothing but compute over the tables it is given, for SQL of this package.

No files, no network, no extensions, no secrets, no Python variables, capped memory and threads, and a
configuration that no statement can change back. What does not fit in memory spills to a private folder that
goes with the session. SQL of users runs under the same configuration in a process of its own (`child`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import pyarrow as pa

from schemas.errors import DataError, printable
from schemas.store.scratch import Scratch

WHOLE_ROWS = {"late_materialization_max_rows": 0}
"""Rows are read at once: DuckDB 2.0 fails to fetch those of a top-n later where parts of a view are filtered out."""

CONFIG = {
    **WHOLE_ROWS,
    "python_enable_replacements": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "allow_persistent_secrets": False,
    "allow_unsigned_extensions": False,
    "ieee_floating_point_ops": False,
    "preserve_insertion_order": True,
}
LOCKS = ("TimeZone = 'UTC'", "enable_external_access = false", "lock_configuration = true")


class Session:
    """An in-memory DuckDB with the tables that were `add`ed and nothing else; use it as a context manager.

    `memory` is a DuckDB size ("1GB").
    """

    def __init__(self, *, memory: str = "1GB") -> None:
        self._memory = memory

    def __enter__(self) -> Session:
        import duckdb

        with ExitStack() as stack:
            spill = stack.enter_context(Scratch("quiver-sql-"))
            config = {"memory_limit": self._memory, "threads": 1, "temp_directory": spill}
            self._db = duckdb.connect(":memory:", config={**config, **CONFIG})
            stack.callback(self._db.close)
            for lock in LOCKS:
                self._db.execute(f"SET {lock}")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, name: str, table: pa.Table) -> None:
        """Make `table` readable under `name`."""
        self._db.register(name, table)

    def load(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        """Stream `batches` into a table of this session; what does not fit in memory spills."""
        self._db.register("_incoming", pa.RecordBatchReader.from_batches(schema, iter(batches)))
        quoted = name.replace('"', '""')
        self.rows(f'CREATE TABLE "{quoted}" AS SELECT * FROM _incoming')
        self._db.unregister("_incoming")

    def rows(self, sql: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
        """The result of one statement as Python tuples."""
        return self._bounded(lambda: self._db.execute(sql, parameters or []).fetchall())

    def table(self, sql: str) -> pa.Table:
        """The result of one query as an Arrow table, its rows in the order that the query says."""
        return self._bounded(lambda: self._db.sql(sql).to_arrow_table())

    def batches(self, sql: str, rows: int = 65536) -> Iterator[pa.RecordBatch]:
        """The result of one query, a batch at a time."""
        yield from self._db.sql(sql).to_arrow_reader(rows)

    def close(self) -> None:
        """What leaving the `with` block does; the session and its spilled data are gone."""
        self._stack.close()

    def _bounded(self, work: Any) -> Any:
        import duckdb

        try:
            return work()
        except duckdb.OutOfMemoryException as error:
            message = f"the statement needs more than {self._memory}: {printable(error, 200)}"
            raise DataError("sql-memory", message, expected=self._memory) from error
