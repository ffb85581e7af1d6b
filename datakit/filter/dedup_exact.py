"""Rows that say what an earlier row said already: exact equality of the named columns, over the whole
dataset.

Values themselves are compared, no digests, so no two different rows are ever merged. DuckDB groups them out
of core; texts are read twice (once to compare, once to copy), memory stays bounded. Null equals null.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from datakit.columns.measurement import require_columns
from datakit.columns.rejections import parted
from datakit.duck.session import Session
from datakit.op import NOTHING, Context, GatherAll, Result
from schemas import Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError

_BATCH_ROWS = 65536
_MEMORY = "2GB"


@dataclass(frozen=True, kw_only=True)
class DedupExact(GatherAll):
    """Keep the first row, in the dataset's order, of those that agree in all `columns`.

    The others go with the reason "duplicate"; their threshold is the id (first key column) of the row that
    stayed, or its row number where the schema has no key.
    """

    name: ClassVar[str] = "filter.dedup_exact"

    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.columns or len(set(self.columns)) != len(self.columns):
            raise ConfigError("bad-setting", f"filter.dedup_exact: columns {self.columns}", expected="names, each once")

    @property
    def takes(self) -> Schema:
        """Any row that has the columns, which `gives` checks."""
        return NOTHING

    def gives(self, *inputs: Schema) -> Schema:
        require_columns(inputs[0], self.columns, self.name)
        return inputs[0]

    def gather_all(self, dataset: Dataset, ctx: Context) -> Iterator[Result]:
        """First rows, in order; duplicates beside them."""
        with Session(memory=_MEMORY) as session:
            session.load("rows", *self._light(dataset))
            keys = [f"k{number}" for number in range(len(self.columns))]
            session.rows(
                f"CREATE TABLE firsts AS SELECT {', '.join(keys)}, min(n) AS first_n, "
                f"arg_min(id, n) AS first_id FROM rows GROUP BY {', '.join(keys)} HAVING count(*) > 1"
            )
            match = " AND ".join(f"rows.{key} IS NOT DISTINCT FROM firsts.{key}" for key in keys)
            places = session.batches(
                f"SELECT n, first_id FROM rows JOIN firsts ON {match} WHERE n <> first_n ORDER BY n",
                _BATCH_ROWS,
            )
            yield from parted(dataset, places, "duplicate", _BATCH_ROWS)

    def _light(self, dataset: Dataset) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """Row number, id and the compared columns of every row."""
        key = dataset.schema.key[:1]
        kinds = [(f"k{i}", dataset.schema[name].type) for i, name in enumerate(self.columns)]
        schema = pa.schema([("n", pa.int64()), ("id", pa.string()), *kinds])

        def batches() -> Iterator[pa.RecordBatch]:
            start = 0
            for shard in range(len(dataset.shards)):
                for rows in dataset.batches(shard, _BATCH_ROWS, columns=list(dict.fromkeys((*key, *self.columns)))):
                    number = pa.array(np.arange(start, start + rows.num_rows))
                    ids = (rows[key[0]] if key else number).cast(pa.string())
                    columns = [rows[name].cast(kind) for name, (_, kind) in zip(self.columns, kinds, strict=True)]
                    yield from pa.table([number, ids, *columns], schema=schema).to_batches()
                    start += rows.num_rows

        return schema, batches()
