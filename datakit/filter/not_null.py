"""Rows that hold a value in each of some columns, which may not be null behind it: what a trainer's schema asks for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.op import NOTHING, Context, FilterDecision, Keep
from schemas import Schema
from schemas.canonical import DEFAULT_UNNAMED
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError

_ROWS = 65536
"""Rows looked at together."""


@dataclass(frozen=True, kw_only=True)
class NotNull(Keep):
    """Keep the rows without a null in any of `columns`; the schema that comes out says that these are never null. The
    others go with the reason "null", and the first such column where a filter has its threshold. Where no row stays the
    run stops before the work, unless `allow_empty` says that nothing is fine.
    """

    name: ClassVar[str] = "filter.not_null"
    loses_rows: ClassVar[bool] = True

    columns: tuple[str, ...]
    allow_empty: bool = field(default=False, metadata=DEFAULT_UNNAMED)

    def __post_init__(self) -> None:
        if not self.columns:
            raise ConfigError(
                "bad-setting", "filter.not_null: no column is given", expected="columns: names of the rows' columns",
                kept="nothing was started", next=f"quiver ops {self.name}",
            )  # fmt: skip

    @property
    def takes(self) -> Schema:
        """Any row with these columns, which `gives` checks."""
        return NOTHING

    def gives(self, *inputs: Schema) -> Schema:
        """The input's schema with these columns not nullable; `ConfigError` for a column that is not there."""
        rows = inputs[0]
        rows.selecting(*self.columns)
        columns = (replace(one, nullable=one.nullable and one.name not in self.columns) for one in rows.columns)
        return replace(rows, columns=tuple(columns))

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """Nothing; `DataError` where no row would stay. Read as far as the first that does."""
        if not self.allow_empty and dataset.num_rows and not self.keeps_any(dataset):
            raise DataError(
                "nothing-kept",
                f"none of {dataset.num_rows} rows has a value in {' and '.join(self.columns)}",
                expected="rows that do; an import reads a key of another name where `columns` names it",
                where=dataset.url,
                kept="nothing was written",
                next=f"import the files with --columns '{json.dumps(dict.fromkeys(self.columns, 'KEY'))}'",
            )
        return {}

    def keeps_any(self, rows: Dataset | Iterable[pa.Table]) -> bool:
        """Whether one of the rows stays; they are read as far as the first that does."""
        tables = _chunks(rows, self.columns) if isinstance(rows, Dataset) else rows
        return any((~self._nulls(table).any(axis=0)).any() for table in tables)

    def keep(self, rows: pa.Table, ctx: Context) -> FilterDecision:
        """A NaN is a value."""
        nulls = self._nulls(rows)
        first = pa.array(self.columns, pa.string()).take(pa.array(nulls.argmax(axis=0)))
        return FilterDecision(pa.array(~nulls.any(axis=0)), "null", threshold=first)

    def _nulls(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        """Whether each column is null in each row [columns, rows]."""
        return np.stack([np.asarray(rows[name].is_null()) for name in self.columns])


def _chunks(dataset: Dataset, columns: Sequence[str]) -> Iterator[pa.Table]:
    for shard in range(len(dataset.shards)):
        yield from dataset.batches(shard, _ROWS, columns)
