"""online.logprobs: log-probabilities of a step's answers by a run's own policy as the step begins, and by its first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from datakit.columns.token_lists import answered, finite_rows, token_rows
from datakit.op import Context, FilterDecision, Label, LabelResult
from schemas import TOKENS, Column, Schema
from schemas.rows.rollouts import OLD_LOGPROBS, REF_LOGPROBS

LogprobColumn = Literal["old_logprobs", "ref_logprobs"]
COLUMNS: Mapping[str, Column] = {column.name: column for column in (OLD_LOGPROBS, REF_LOGPROBS)}


@dataclass(frozen=True, kw_only=True)
class StepLogprobs(Label):
    """Adds `columns` along `input_ids`, in nats at temperature 1, 0 at the first token: `old_logprobs` by the network
    that learns, as the step begins, `ref_logprobs` by the checkpoint that the run began with. Both compute as the
    training does. A row with a number that is not finite is an error.
    """

    name: ClassVar[str] = "online.logprobs"
    needs: ClassVar[tuple[str, ...]] = ("generator",)
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    max_rejected: ClassVar[int | None] = 0

    columns: tuple[LogprobColumn, ...]

    @property
    def takes(self) -> Schema:
        return Schema("token_rows", 1, (TOKENS["input_ids"],))

    @property
    def adds(self) -> tuple[Column, ...]:
        return tuple(COLUMNS[name] for name in self.columns)

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        """Asked of the networks on all ranks together; `ServiceError` where a number of a token is missing."""
        policy: Any = ctx.resources["generator"]
        texts = token_rows(rows["input_ids"])
        added: dict[str, pa.Array] = {
            name: answered(policy.logprobs(name, texts), texts, name) for name in self.columns
        }
        finite = np.all([finite_rows(column) for column in added.values()], axis=0)
        return LabelResult(added, FilterDecision(pa.array(finite), "logprobs-not-finite", threshold="finite"))
