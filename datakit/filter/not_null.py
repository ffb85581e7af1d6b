"""Rows that hold a value in each of some columns, which may not be null behind it: what a trainer's schema asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa

from datakit.op import NOTHING, Context, FilterDecision, Keep
from schemas import Schema
from schemas.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class NotNull(Keep):
    """Keep the rows without a null in any of `columns`; the schema that comes out says that these are never null. The
    others go with the reason "null", and the first such column where a filter has its threshold.
    """

    name: ClassVar[str] = "filter.not_null"

    columns: tuple[str, ...]

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

    def keep(self, rows: pa.Table, ctx: Context) -> FilterDecision:
        """A NaN is a value."""
        nulls = np.stack([np.asarray(rows[name].is_null()) for name in self.columns])
        first = pa.array(self.columns, pa.string()).take(pa.array(nulls.argmax(axis=0)))
        return FilterDecision(pa.array(~nulls.any(axis=0)), "null", threshold=first)
