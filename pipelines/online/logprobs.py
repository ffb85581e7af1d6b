"""Log-probabilities of a step's answers by the run's own networks: the policy as the step begins, and the first one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from datakit.columns.token_lists import answered, finite_rows, token_rows
from datakit.op import Context, FilterDecision, Label, LabelResult
from pipelines.online import network
from pipelines.online.network import FIRST, FIRST_ANSWERS
from schemas import TOKENS, Column, Schema
from schemas.rows.rollouts import OLD_LOGPROBS, REF_LOGPROBS
from trainers.config import Run

if TYPE_CHECKING:
    from trainers.engine.inference.frozen import FrozenModel
    from trainers.engine.training.trainer import Trainer

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


def served(trainer: Trainer, columns: tuple[str, ...], *, first_policy: bool = False) -> dict[str, Callable[..., Any]]:
    """What gives each of `columns`, on every rank, and with `first_policy` what this is asked besides; it is read once
    and cut as the network in training.
    """
    known: dict[str, Callable[..., Any]] = {}
    if "old_logprobs" in columns:
        known["old_logprobs"] = trainer.token_model().logprobs
    if "ref_logprobs" in columns or first_policy:
        first = _first_policy(trainer.run)
        known |= {"ref_logprobs": first.logprobs, **network.served(FIRST, first, FIRST_ANSWERS)}
    return known


def _first_policy(run: Run) -> FrozenModel:
    from trainers.engine.inference.frozen import open_frozen

    assert run.paths.init is not None, "a configuration without one is refused"
    cut = run.execution.parallel
    sizes = {"tensor": cut.tensor, "pipeline": cut.pipeline, "expert": cut.expert}
    how: dict[str, Any] = {"precision": run.learning.precision, "implementation": run.execution.implementation}
    return open_frozen(run.paths.init, **sizes, **how)
