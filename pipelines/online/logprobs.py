"""The run's own networks as `online.logprobs` asks them: the policy as the step begins, and the first one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines.online import network
from pipelines.online.network import FIRST, FIRST_ANSWERS
from trainers.config import Run

if TYPE_CHECKING:
    from trainers.engine.inference.frozen import FrozenModel
    from trainers.engine.training.trainer import Trainer


def served(trainer: Trainer, columns: tuple[str, ...], *, first_policy: bool = False) -> dict[str, Callable[..., Any]]:
    """What gives each of `columns`, on every rank, and with `first_policy` what this is asked besides: the network in
    training with its adapters left out where it learns by adapters (LoRA), else read once and cut as that is.
    """
    known: dict[str, Callable[..., Any]] = {}
    if "old_logprobs" in columns:
        known["old_logprobs"] = trainer.token_model().logprobs
    if "ref_logprobs" in columns or first_policy:
        first = trainer.first_model() or _first_policy(trainer.run)
        known |= {"ref_logprobs": first.logprobs, **network.served(FIRST, first, FIRST_ANSWERS)}
    return known


def _first_policy(run: Run) -> FrozenModel:
    from trainers.engine.inference.frozen import open_frozen

    assert run.paths.init is not None, "a configuration without one is refused"
    cut = run.execution.parallel
    sizes = {"tensor": cut.tensor, "pipeline": cut.pipeline, "expert": cut.expert}
    how: dict[str, Any] = {"precision": run.learning.precision, "implementation": run.execution.implementation}
    return open_frozen(run.paths.init, **sizes, **how)
