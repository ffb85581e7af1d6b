"""Rows whose key stands in no row of other datasets: an anti join (`NOT IN` of SQL), as rows to learn from are kept
apart from rows to judge by.

Keys themselves are compared, no digests. DuckDB joins them out of core; texts are read twice (once to compare, once to
copy), memory stays bounded. A null equals a null.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from datakit.columns.rejections import parted
from datakit.columns.row_keys import keyed, texts_of
from datakit.duck.session import Session
from datakit.op import Blend, Context, Result
from schemas import Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError

_BATCH_ROWS = 65536
_MEMORY = "2GB"
_SHOWN = 200
"""Characters of a key that stand beside a row that goes."""


@dataclass(frozen=True, kw_only=True)
class NotIn(Blend):
    """Keep the rows of the first input, in their order, whose `key` no row of the other inputs has.

    The others go with `reason`, and their key (its first 200 characters) where a filter has its threshold. `key` is a
    column of text, or `messages`: conversations that begin with the same question, as in `blend.split`.
    """

    name: ClassVar[str] = "filter.not_in"
    loses_rows: ClassVar[bool] = True

    key: str = "prompt_id"
    reason: str = "excluded"

    @property
    def takes(self) -> Schema:
        return keyed(self.key)

    def gives(self, *inputs: Schema) -> Schema:
        """The schema of the first input; `ConfigError` where no other says what goes."""
        if len(inputs) < 2:
            raise ConfigError(
                "bad-inputs",
                f"{self.name} got {len(inputs)} input",
                expected="the rows, and one dataset or more of rows whose keys go",
                found=str(len(inputs)),
                kept="nothing was started",
                next=f"quiver ops {self.name}",
            )
        return inputs[0]

    def blend(self, inputs: Sequence[Dataset], ctx: Context) -> Iterator[Result]:
        """The rows that stay, in order; those that go beside them."""
        with Session(memory=_MEMORY) as session:
            for name, given in (("rows", inputs[:1]), ("others", inputs[1:])):
                session.load(name, _KEYS, self._keys(given))
            places = session.batches(
                f"SELECT n, left(key, {_SHOWN}) FROM rows SEMI JOIN (SELECT DISTINCT key FROM others) AS others "
                "ON rows.key IS NOT DISTINCT FROM others.key ORDER BY n",
                _BATCH_ROWS,
            )
            yield from parted(inputs[0], places, self.reason, _BATCH_ROWS)

    def _keys(self, inputs: Sequence[Dataset]) -> Iterator[pa.RecordBatch]:
        """The number and the key of every row."""
        start = 0
        for dataset in inputs:
            for shard in range(len(dataset.shards)):
                for rows in dataset.batches(shard, _BATCH_ROWS, columns=[self.key]):
                    numbers = pa.array(np.arange(start, start + rows.num_rows))
                    yield from pa.table([numbers, texts_of(rows, self.key)], schema=_KEYS).to_batches()
                    start += rows.num_rows


_KEYS = pa.schema([("n", pa.int64()), ("key", pa.string())])
