"""label.values: a critic's number at every token, for advantages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from datakit.clients.token_label import TokenLabel
from datakit.columns.token_lists import answered, finite_rows, token_rows
from datakit.op import Capability, Context, FilterDecision, LabelResult
from schemas import IDS, Column, Schema


@dataclass(frozen=True, kw_only=True)
class Values(TokenLabel):
    """Adds `column`: the scalar head's first number at the position before every token of `ids`, list<float32> as long
    as the ids, 0 at the first token. A row with a value that is not finite is rejected as `values-not-finite`.
    """

    name: ClassVar[str] = "label.values"
    capabilities: ClassVar[tuple[Capability, ...]] = ("values",)

    ids: str = "input_ids"
    column: str = "values"

    @property
    def token_bytes(self) -> int:
        return pa.float32().bit_width // 8

    @property
    def takes(self) -> Schema:
        return Schema("token_rows", 1, (Column(self.ids, IDS, "tokens that are read"),))

    @property
    def adds(self) -> tuple[Column, ...]:
        return (Column(self.column, pa.list_(pa.float32()), f"value before every token of {self.ids}"),)

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        """Ask the model; `ServiceError` (13) where it does not answer with one number per token."""
        model = self.model(rows, ctx)
        texts = token_rows(rows[self.ids])
        values = answered(model.values(texts), texts, "values")
        return LabelResult({self.column: values}, FilterDecision(pa.array(finite_rows(values)), "values-not-finite"))
