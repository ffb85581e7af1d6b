"""label.topk: a teacher's likeliest ids at every token, for distillation without the teacher in the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import pyarrow as pa

from datakit.clients.token_label import TokenLabel
from datakit.columns.token_lists import answered, finite_rows, token_rows
from datakit.op import Capability, Context, FilterDecision, LabelResult
from schemas import IDS, Column, Schema
from schemas.errors import ConfigError

FLOATS = {"float32": pa.float32(), "float16": pa.float16()}


@dataclass(frozen=True, kw_only=True)
class TopK(TokenLabel):
    """Adds `<into>_ids` (list<list<int32>>) and `<into>_logprobs` (nats, list<list> of `dtype`): the `k` likeliest ids
    at every token of `ids`, likeliest first; both are 0 at the first token. A row with a log-probability that is not
    finite is rejected as `logprobs-not-finite`. A token costs k times 8 bytes (6 with float16) before compression.
    float16 keeps each log-probability to 1/2048 of itself, down to -65504; it is read wherever float32 is.
    """

    name: ClassVar[str] = "label.topk"
    capabilities: ClassVar[tuple[Capability, ...]] = ("logprobs", "top_k")

    k: int = 100
    ids: str = "input_ids"
    into: str = "teacher"
    dtype: Literal["float32", "float16"] = "float32"
    rows_per_chunk: int = 256

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(
                "bad-setting", f"{self.name}: k must be at least 1, not {self.k}", kept="nothing was started"
            )

    @property
    def top_k(self) -> int:
        return self.k

    @property
    def token_bytes(self) -> int:
        return self.k * (IDS.value_type.bit_width + FLOATS[self.dtype].bit_width) // 8

    @property
    def takes(self) -> Schema:
        return Schema("token_rows", 1, (Column(self.ids, IDS, "tokens that are read"),))

    @property
    def adds(self) -> tuple[Column, ...]:
        lists = pa.list_(pa.list_(FLOATS[self.dtype]))
        return (
            Column(f"{self.into}_ids", pa.list_(IDS), f"likeliest ids at every token of {self.ids}"),
            Column(f"{self.into}_logprobs", lists, "their log-probabilities in nats"),
        )

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        """Ask the model; `ServiceError` (13) where it does not answer for every token."""
        model = self.model(rows, ctx)
        texts = token_rows(rows[self.ids])
        ids, logprobs = (answered(part, texts, "likeliest ids") for part in model.top_k(texts, self.k))
        logprobs = logprobs.cast(pa.list_(pa.list_(FLOATS[self.dtype])))
        columns = {f"{self.into}_ids": ids, f"{self.into}_logprobs": logprobs}
        return LabelResult(columns, FilterDecision(pa.array(finite_rows(logprobs)), "logprobs-not-finite"))
