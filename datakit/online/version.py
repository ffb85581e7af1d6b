"""online.version: which weights drew an answer, where these are not those that learn from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from datakit.op import NOTHING, Context, Label
from schemas import Column, Schema

WEIGHT_VERSION = Column("weight_version", pa.int32(), "steps that the policy had learnt from as it drew the answer")


@dataclass(frozen=True, kw_only=True)
class StepVersion(Label):
    """Adds `weight_version`: how many steps of the run the policy that drew has learnt from."""

    name: ClassVar[str] = "online.version"
    needs: ClassVar[tuple[str, ...]] = ("generator",)
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    @property
    def takes(self) -> Schema:
        return NOTHING

    @property
    def adds(self) -> tuple[Column, ...]:
        return (WEIGHT_VERSION,)

    def label(self, rows: pa.Table, ctx: Context) -> Mapping[str, Any]:
        """The same number on all rows that are drawn now."""
        policy: Any = ctx.resources["generator"]
        return {WEIGHT_VERSION.name: pa.array([policy.version] * rows.num_rows, pa.int32())}
