"""label.reward: a reward model's (or a function's) number for every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from datakit.clients.replies import scores
from datakit.op import NOTHING, Capability, Context, FilterDecision, Label, LabelResult
from schemas import Column, Schema


@dataclass(frozen=True, kw_only=True)
class Reward(Label):
    """Adds the scorer's `reads` as the finite `column`; its resource's `takes` says what the scorer reads.

    A row whose reward is null, NaN or infinite is rejected as `reward-not-finite`. No such row is allowed
    unless the run says how many (`max_rejected`): a broken reward must never become the best one.
    """

    name: ClassVar[str] = "label.reward"
    needs: ClassVar[tuple[str, ...]] = ("scorer",)
    paid: ClassVar[bool] = True
    max_rejected: ClassVar[int | None] = 0

    reads: str = "reward"
    """Which of the scorer's numbers."""
    column: str = "reward"
    """Name of the new column, so that several rewards can stand side by side."""
    rows_per_chunk: int = 1024
    """Rows scored together; part of the identity, because a model's arithmetic may depend on its batch."""

    @property
    def asks(self) -> frozenset[Capability]:
        return frozenset({"scores"})

    @property
    def takes(self) -> Schema:
        """Nothing of its own: the scorer's columns are checked through its resource."""
        return NOTHING

    @property
    def adds(self) -> tuple[Column, ...]:
        return (Column(self.column, pa.float64(), f"{self.reads}, higher is better", finite=True),)

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        """Ask the scorer; `ServiceError` (13) if it does not answer with one number per row."""
        [values] = scores(ctx, rows, (self.reads,))
        finite = pc.fill_null(pc.is_finite(values), False)
        return LabelResult({self.column: values}, FilterDecision(finite, "reward-not-finite", values, "finite"))
