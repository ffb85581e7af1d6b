"""What learns beside the policy of an online run: a network that answers operations over the rows of a step, by the
weights that it has as the step begins, and then learns from the very rows that the policy learns from.

A recipe declares it, a kind and a training: `{"critic": LearnerTraining(training=..., init=..., warmup=4)}`. A kind is
one file in `learners`, and one line there; the steps drive whatever is declared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pyarrow as pa

from datakit.op import Capability
from pipelines.online import network
from trainers.config import Learning, Run

if TYPE_CHECKING:
    from trainers.engine.training.trainer import Trainer


class Declared(Protocol):
    """What decides a learner's weights besides the rows: its training, and how many rounds it alone learns from."""

    @property
    def learning(self) -> Learning: ...

    @property
    def warmup(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class LearnerRun:
    """A learner as a configuration holds it: it alone learns from the answers of `warmup` rounds before the first step,
    then from those of every step.
    """

    run: Run
    warmup: int = 0

    @property
    def learning(self) -> Learning:
        """What is learnt of its training."""
        return self.run.learning

    def faults(self, name: str, policy: Run, updates: int) -> list[str]:
        """Why the learner `name` cannot stand beside `policy`, whose steps make so many updates; empty when it can."""
        steps = (policy.learning.max_steps or 0) + self.warmup * updates
        faults = []
        if self.warmup < 0:
            faults.append(f"{name}.warmup {self.warmup} is below 0")
        if self.run.execution.parallel != policy.execution.parallel:
            faults.append(f"{name}.parallel is not run.parallel: both networks are cut over the same processes")
        if self.run.learning.max_steps != steps:
            faults.append(f"{name}.max_steps {self.run.learning.max_steps} is not {steps}: its updates, and warm-up")
        if self.run.paths.folder == policy.paths.folder:
            faults.append(f"{name}.work is the folder of the policy's run")
        return faults


class Learner:
    """A learner's training, as the steps of a run use it; kinds are subclasses."""

    name: ClassVar[str]
    """In configurations and keys, the folder of its run, and what its figures begin with."""
    answers: ClassVar[tuple[Capability, ...]]
    """What it says of tokens, in place of the first policy."""
    shown: ClassVar[tuple[str, ...]] = ("loss", "lr", "grad_norm")
    """Figures of its steps that stand beside those of the policy, as `<name>_<figure>`."""
    charts: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """What is drawn together of its figures on a page: a chart's title, and their names."""

    def __init__(self, trainer: Trainer, warmup: int = 0) -> None:
        self.trainer, self.warmup = trainer, warmup

    @property
    def weights(self) -> str:
        """The checksum of its weights as they stand. All processes ask."""
        return self.trainer.weights_checksum

    @property
    def served(self) -> dict[str, Callable[..., Any]]:
        """What ranks are asked to do together."""
        return network.served(self.name, self.trainer.token_model(), self.answers)

    def learn(self, rows: pa.Table) -> dict[str, float]:
        """One optimizer step on `rows`; its figures."""
        made = {f"{self.name}_{name}": one for name, one in self.trainer.learn(rows).items() if name in self.shown}
        return {**made, **self.figures(rows)}

    def figures(self, rows: pa.Table) -> dict[str, float]:
        """What the rows that it learns from tell of it besides, by full names."""
        return {}
