"""Where token rows come from, one table of some rows at a time: the shards of a dataset, or a table in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.dataset import Dataset
from schemas.errors import DataError
from schemas.rows.tokens import PACKS
from schemas.schema import Schema
from schemas.shards import open_shard
from schemas.store.storage import shown
from schemas.valid import require_valid
from trainers.algorithm import Algorithm

_ROW = "row"
"""What rows without a key are named by."""


class RowGroups(Protocol):
    """Rows in groups. `where` names them in errors, `kept` says what is still there after one."""

    where: str
    kept: str
    schema: Schema

    def tables(self, columns: Sequence[str]) -> Iterator[tuple[int, int, pa.Table]]:
        """Every group in order: its shard, its number there, and these columns of it."""
        ...

    def read(self, shard: int, number: int, columns: Sequence[str]) -> pa.Table:
        """These columns of one group."""
        ...


class ShardGroups:
    """The Parquet row groups of a dataset on disk, read when they are asked for and verified as the dataset says."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.where, self.schema, self.kept = dataset, dataset.url, dataset.schema, "nothing was started"

    def tables(self, columns: Sequence[str]) -> Iterator[tuple[int, int, pa.Table]]:
        """Every row group that has rows; each shard is opened once."""
        for shard, file in enumerate(self.dataset.shards):
            with open_shard(self.where, file, self.schema, self.dataset.verify) as opened:
                for number in range(opened.num_row_groups):
                    yield shard, number, self._group(opened, number, columns)

    def read(self, shard: int, number: int, columns: Sequence[str]) -> pa.Table:
        """The `columns` of row group `number` of a shard, from verified bytes; `IntegrityError` where they are not."""
        with open_shard(self.where, self.dataset.shards[shard], self.schema, self.dataset.verify) as opened:
            return self._group(opened, number, columns)

    def _group(self, opened: pq.ParquetFile, number: int, columns: Sequence[str]) -> pa.Table:
        table = opened.read_row_group(number, columns=list(columns))
        require_valid(table, shown(self.where))
        return table


class TableGroups:
    """A table in memory, as one group: what `algorithm` reads of it, cast without loss; `DataError` lists all faults.

    Rows need no key: without one they are called by their number.
    """

    def __init__(self, table: pa.Table, algorithm: Algorithm) -> None:
        self.where, self.kept = "the rows given to learn", "the network and its optimizer, as they were"
        if not table.num_rows:
            raise DataError("no-rows", "a step needs rows", expected="at least one row", where=self.where)
        table = table.replace_schema_metadata()  # it may speak of columns that the table has no more
        checked = algorithm.reads(Schema.of_arrow(table.schema)).check(table, self.where)
        keys = [name for name in (*PACKS.key, *algorithm.rows.key) if name in table.column_names] or [_ROW]
        for name in (*keys[:1], *(f"{key}s" for key in algorithm.rows.key), "sources", "source"):
            if name in table.column_names and name not in checked.column_names:
                checked = checked.append_column(table.schema.field(name), table[name])
        if keys == [_ROW]:
            checked = checked.append_column(_ROW, pa.array([f"row {n}" for n in range(table.num_rows)], pa.string()))
        self._table = checked.replace_schema_metadata()
        self.schema = replace(Schema.of_arrow(self._table.schema), key=(keys[0],))

    def tables(self, columns: Sequence[str]) -> Iterator[tuple[int, int, pa.Table]]:
        """The table itself as shard 0, group 0."""
        yield 0, 0, self._table.select(list(columns))

    def read(self, shard: int, number: int, columns: Sequence[str]) -> pa.Table:
        """The `columns` of the one group that there is."""
        return self._table.select(list(columns))
