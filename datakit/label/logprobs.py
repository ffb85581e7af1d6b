"""label.logprobs: what a frozen policy thinks of tokens that are there: the reference log-probs of DPO, KTO, PPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from datakit.clients.token_label import TokenLabel
from datakit.columns.conversations import starts
from datakit.columns.token_lists import answered, finite_rows, mask_of, row_sums, token_rows
from datakit.op import Capability, Context, FilterDecision, LabelResult
from schemas import IDS, Column, Schema
from schemas.errors import ConfigError
from schemas.rows.tokens import MASK

FLOATS = {"float32": pa.list_(pa.float32()), "float16": pa.list_(pa.float16())}


@dataclass(frozen=True, kw_only=True)
class Logprobs(TokenLabel):
    """Adds, for each (ids column, mask column, new column) of `columns`, the model's log-probabilities in nats.

    `per` token: a list as long as the ids, 0 at the first token, stored as `dtype`. `per` row: their sum over the
    tokens that the mask counts (float64); with the mask column "" all tokens after the first count. A row with a value
    that is not finite is rejected as `logprobs-not-finite`. float16 keeps each value to 1/2048 of itself, down to
    -65504; it is read wherever float32 is.
    """

    name: ClassVar[str] = "label.logprobs"
    capabilities: ClassVar[tuple[Capability, ...]] = ("logprobs",)
    of_reference: ClassVar[bool] = True

    columns: tuple[tuple[str, str, str], ...] = (("input_ids", "loss_mask", "ref_logprobs"),)
    per: Literal["token", "row"] = "token"
    dtype: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        added = [column for _, _, column in self.columns]
        if not added or len(set(added)) < len(added):
            raise ConfigError(
                "bad-setting",
                f"{self.name}: columns names each new column once, and one at least",
                kept="nothing was started",
            )

    @property
    def token_bytes(self) -> int:
        return 0 if self.per == "row" else FLOATS[self.dtype].value_type.bit_width // 8

    @property
    def takes(self) -> Schema:
        """Token ids and, where named, masks."""
        ids = {name: Column(name, IDS, "tokens that are read") for name, _, _ in self.columns}
        masks = {mask: Column(mask, MASK, "1 where a token counts") for _, mask, _ in self.columns if mask}
        return Schema("token_rows", 1, (*ids.values(), *(masks.values() if self.per == "row" else ())))

    @property
    def adds(self) -> tuple[Column, ...]:
        if self.per == "row":
            return tuple(
                Column(n, pa.float64(), f"log-probability of {ids}", finite=True) for ids, _, n in self.columns
            )
        return tuple(Column(n, FLOATS[self.dtype], f"log-probabilities of {ids}") for ids, _, n in self.columns)

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        """Ask the model; `ServiceError` (13) where it does not answer with one number per token."""
        model = self.model(rows, ctx)
        added: dict[str, pa.Array] = {}
        finite = np.ones(rows.num_rows, bool)
        for ids, mask, column in self.columns:
            texts = token_rows(rows[ids])
            answer = answered(model.logprobs(texts), texts, "log-probabilities")
            if self.per == "token":
                added[column] = answer.cast(FLOATS[self.dtype])
                finite &= finite_rows(added[column])
                continue
            finite &= finite_rows(answer)
            values = np.asarray(answer.flatten(), np.float64)
            if mask:
                values = np.where(mask_of(rows[mask], rows[ids], mask) != 0, values, 0.0)
            added[column] = pa.array(row_sums(values, starts(answer)))
        return LabelResult(added, FilterDecision(pa.array(finite), "logprobs-not-finite", threshold="finite"))
