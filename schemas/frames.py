"""Datasets as tables of other libraries: polars, pandas, DuckDB. Each is imported when it is first asked for.

The one module of schemas that knows more than pyarrow; `Dataset.polars()`, `.pandas()`, `.duckdb()` and `.sql()` are
its doors. Everything is read through `Dataset`, so that missing, torn or changed shards are `IntegrityError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from schemas.errors import ConfigError
from schemas.installed import with_extra
from schemas.manifest import File, Manifest
from schemas.schema import Schema
from schemas.shards import Verify, open_shard

if TYPE_CHECKING:
    import duckdb
    import pandas
    import polars

_ROWS_PER_BATCH = 8192


class Shards(Protocol):
    """What is read of a `Dataset`: verified rows, and where they lie."""

    @property
    def url(self) -> str:
        """The folder of the dataset, an fsspec URL."""

    @property
    def manifest(self) -> Manifest:
        """The manifest that names the files and their hashes."""

    @property
    def verify(self) -> Verify:
        """How much of every file is checked when it is read: `full`, `size` or `off`."""

    @property
    def schema(self) -> Schema:
        """Of the rows as they are read."""

    @property
    def shards(self) -> tuple[File, ...]:
        """The files of the dataset, in the order of its rows."""

    def paths(self) -> list[str]:
        """The URLs of the files, in the order of `shards`."""

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, verified, as one table in memory."""

    def batches(self, index: int, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows of one shard, `rows` at a time."""


def to_polars(rows: pa.Table) -> polars.DataFrame:
    """A polars frame of an Arrow table, without a copy where the types allow."""
    import polars

    return polars.DataFrame(polars.from_arrow(rows))


def from_polars(frame: polars.DataFrame | polars.LazyFrame) -> pa.Table:
    """An Arrow table of a polars frame."""
    import polars

    return (frame.collect() if isinstance(frame, polars.LazyFrame) else frame).to_arrow()


def to_pandas(rows: pa.Table) -> pandas.DataFrame:
    """A pandas frame; `ConfigError` where pandas is not installed."""
    try:
        import pandas  # noqa: F401
    except ImportError:
        raise ConfigError(
            "no-pandas",
            "pandas is not installed",
            expected="the extra pandas",
            found="none",
            kept="nothing was read",
            next=f"{with_extra('pandas')}, or use .polars()",
        ) from None
    return rows.to_pandas()


def scan(dataset: Shards, columns: Sequence[str] | None = None) -> polars.LazyFrame:
    """A lazy frame whose source reads verified batches: the columns that a query uses, and no row after its limit."""
    from polars.io.plugins import register_io_source

    chosen = dataset.schema if columns is None else dataset.schema.selecting(*columns)

    def source(
        with_columns: list[str] | None, predicate: polars.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[polars.DataFrame]:
        left = n_rows
        for index in range(len(dataset.shards)):
            if left == 0:
                return
            for batch in dataset.batches(index, batch_size or _ROWS_PER_BATCH, with_columns or chosen.names):
                frame = to_polars(batch if left is None else batch.slice(0, left))
                left = None if left is None else left - frame.height
                yield frame if predicate is None else frame.filter(predicate)
                if left == 0:
                    break

    return register_io_source(source, schema=to_polars(chosen.empty()).schema)


def relation(dataset: Shards) -> duckdb.DuckDBPyRelation:
    """A relation on DuckDB's default connection; it stays readable for as long as its files stay (`Dataset.duckdb`)."""
    import duckdb

    return _rows_in(duckdb.default_connection(), dataset)


def sql(query: str, tables: Mapping[str, Shards]) -> duckdb.DuckDBPyRelation:
    """What `query` answers over `tables`, on a connection of its own, so that no name of one query meets another's."""
    import duckdb

    connection = duckdb.connect()
    for name, dataset in tables.items():
        _rows_in(connection, dataset).create_view(name)
    return connection.sql(query)


def _rows_in(connection: Any, dataset: Shards) -> duckdb.DuckDBPyRelation:
    """Shards of today's schema are scanned where they lie, through `VerifiedFiles`; all others are read first."""
    from schemas.verified_files import FILES

    if not dataset.shards or dataset.manifest.schema != dataset.schema:
        return connection.from_arrow(dataset.read())
    for file in dataset.shards:
        with open_shard(dataset.url, file, dataset.schema, dataset.verify):
            pass
    if FILES.protocol not in connection.list_filesystems():
        connection.register_filesystem(FILES)
    return connection.read_parquet(
        FILES.name_shards(dataset.url, dataset.manifest.content_digest, dataset.shards, dataset.verify),
        hive_partitioning=False,
    )
