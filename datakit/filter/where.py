"""Rows for which a predicate in SQL holds: `reward > 0.5 AND finish_reason = 'stop'`.

The measurement is a column, the decision is a predicate. The text is checked before the run
(`datakit.duck.predicate`) and recorded in the manifest. A row for which it is NULL goes, with the reason
"null" (a NaN counts as NULL).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from datakit.op import NOTHING, Context, FilterDecision, Keep
from datakit.sql import Predicate
from schemas import Schema

_checked = lru_cache(maxsize=64)(Predicate.of)


@dataclass(frozen=True, kw_only=True)
class Where(Keep):
    """Keep the rows for which `predicate` is true; the others go with the reason "false" or "null"."""

    name: ClassVar[str] = "filter.where"

    predicate: str

    @property
    def takes(self) -> Schema:
        """Any row: which columns are read depends on the predicate and is checked in `gives`."""
        return NOTHING

    def gives(self, *inputs: Schema) -> Schema:
        """The input's schema; `ConfigError` where the predicate does not fit it."""
        _checked(self.predicate, inputs[0])
        return inputs[0]

    def keep(self, rows: pa.Table, ctx: Context) -> FilterDecision:
        """True stays; false and null go."""
        holds = _checked(self.predicate, Schema.of_arrow(rows.schema)).values(rows)
        reason = pc.if_else(pc.is_null(holds), "null", "false")
        return FilterDecision(pc.fill_null(holds, False), reason, threshold=self.predicate)
