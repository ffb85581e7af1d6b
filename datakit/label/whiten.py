"""label.whiten: numbers of tokens brought to mean 0 and variance 1 over all counted tokens of the rows that stay.

    x' = (x - mean) / sqrt(variance + epsilon)                variance of all counted tokens, divided by their number

Two passes: one for mean and variance, one that applies them. Mean and variance are merged in the order of the rows
(Chan, Golub and LeVeque 1979), so no process, batch or rank has numbers of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from datakit.columns.counted_tokens import CountedTokens
from datakit.columns.measurement import NOT_FINITE
from datakit.op import Context, FilterDecision, Label, LabelResult
from schemas import Column, Schema
from schemas.dataset import Dataset
from schemas.rows.rollouts import NUMBERS
from schemas.setting_faults import check_ranges
from schemas.stats import merge_moments, moments

_BATCH_ROWS = 8_192


@dataclass(frozen=True, kw_only=True)
class Whiten(Label):
    """Replaces `column`, a list with one number for every token, at the tokens that `mask` counts; 0 elsewhere.

    A row with a number that is not finite is rejected as `not-finite`, and none of its tokens has a part in mean and
    variance. Equal numbers become 0.
    """

    name: ClassVar[str] = "label.whiten"
    version: ClassVar[int] = 2
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    column: str = "advantages"
    output: str = ""
    """Name of the new column; empty: `column` is replaced."""
    mask: str = "loss_mask"
    shift: bool = True
    """false: the mean stays what it was (rewards of PPO), only the variance becomes 1."""
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        check_ranges(self.name, epsilon=(self.epsilon, 0 < self.epsilon <= 1, "in (0, 1]"))

    @property
    def token_bytes(self) -> int:
        return 4

    @property
    def takes(self) -> Schema:
        return CountedTokens.reading("rollouts", self.mask, self.column)

    @property
    def adds(self) -> tuple[Column, ...]:
        return (Column(self.output or self.column, NUMBERS, f"{self.column} with variance 1 over all counted tokens"),)

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """Mean and standard deviation over all counted tokens of finite rows: a scan of two columns."""
        merged = moments(pa.array([], pa.float64()))
        for shard in range(len(dataset.shards)):
            for rows in dataset.batches(shard, _BATCH_ROWS, columns=[self.mask, self.column]):
                table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
                tokens = CountedTokens.of(table, self.mask)
                values_C = tokens.read(self.column)
                stays_C = tokens.each(tokens.finite(values_C)) != 0
                merged = merge_moments(merged, moments(pa.array(values_C[stays_C])))
        if not merged["count"]:
            return {"mean": 0.0, "std": 1.0}
        variance = 0.0 if merged["min"] == merged["max"] else merged["m2"] / merged["count"]
        mean = merged["min"] if variance == 0 else merged["mean"]
        return {"mean": mean, "std": float(np.sqrt(variance + self.epsilon))}

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        tokens = CountedTokens.of(rows, self.mask)
        mean, values_C = ctx.prepared["mean"], tokens.read(self.column)
        finite_B = tokens.finite(values_C)
        white_C = (values_C - mean) / ctx.prepared["std"] + (0.0 if self.shift else mean)
        kept = FilterDecision(pa.array(finite_B & tokens.finite(white_C)), NOT_FINITE)
        return LabelResult({self.adds[0].name: tokens.column(white_C)}, kept)
