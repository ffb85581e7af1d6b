"""online.lag: by how many steps the policy had moved between drawing an answer and learning from it.

Where a step's answers are drawn before the step before it is learnt, they are those of an older policy. It is a column,
so that the bound is a predicate (`lag <= 1`) and "do stale answers teach worse" a query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from datakit.online.version import WEIGHT_VERSION
from datakit.op import Context, Label
from schemas import Column, Schema

LAG = Column("lag", pa.int32(), "steps that the policy had learnt from since, as this one begins")


@dataclass(frozen=True, kw_only=True)
class StepLag(Label):
    """Adds `lag`: the version of the policy as the step begins, less the one that drew the answer."""

    name: ClassVar[str] = "online.lag"
    needs: ClassVar[tuple[str, ...]] = ("generator",)
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    @property
    def takes(self) -> Schema:
        return Schema("drawn", 1, (WEIGHT_VERSION,))

    @property
    def adds(self) -> tuple[Column, ...]:
        return (LAG,)

    def label(self, rows: pa.Table, ctx: Context) -> Mapping[str, Any]:
        """Counted against the policy that is to learn from the rows."""
        policy: Any = ctx.resources["generator"]
        return {LAG.name: pc.subtract(pa.scalar(policy.version, pa.int32()), rows[WEIGHT_VERSION.name])}
