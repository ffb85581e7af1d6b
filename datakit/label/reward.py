"""label.reward: a reward model's (or a function's) number for every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from datakit.clients.protocols import Scorer
from datakit.op import NOTHING, Capability, Context, FilterDecision, Label, LabelResult
from schemas import Column, Schema
from schemas.errors import ServiceError


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
        scorer = ctx.resources["scorer"]
        assert isinstance(scorer, Scorer), f"{type(scorer).__name__} is no Scorer"
        reply = scorer.score(scorer.takes.conform(rows, "what the scorer reads"))
        values = reply.get(self.reads)
        if values is None:
            raise _bad(f"there is no {self.reads}", self.reads, ", ".join(reply) or "nothing")
        if len(values) != rows.num_rows:
            raise _bad(f"asked {rows.num_rows} scores, got {len(values)}", str(rows.num_rows), str(len(values)))
        if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
            raise _bad(f"{self.reads} is no number", "numbers", str(values.type))
        values = values.cast(pa.float64())
        finite = pc.fill_null(pc.is_finite(values), False)
        return LabelResult({self.column: values}, FilterDecision(finite, "reward-not-finite", values, "finite"))


def _bad(what: str, expected: str, actual: str) -> ServiceError:
    return ServiceError(
        "bad-reply",
        f"the scorer's reply cannot be used: {what}",
        expected=expected,
        found=actual,
        kept="finished chunks; no score was made up",
        next="mend the scorer, then run the same command again",
    )
