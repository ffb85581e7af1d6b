"""The engine: the only code that knows Megatron-Core.

Importing this package costs nothing but makes Megatron-Core importable on a machine without CUDA:
`cpu.install` puts a finder in front of `megatron.core` that decides when the first of its modules is asked
for. Everything below runs the same modules on CPU (gloo) and on GPU (NCCL).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainers.engine.megatron import cpu

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trainers.config import Run
    from trainers.engine.data.feed import BatchLoader
    from trainers.engine.training.loop import Validate
    from trainers.engine.training.rollouts import MakeRows
    from trainers.engine.training.trainer import Trainer

cpu.install()


def open(run: Run, *, resume: bool = False) -> Trainer:  # noqa: A001 - called as `engine.open`
    """A network in training, to be used from Python: `with engine.open(run) as trainer: trainer.learn(rows)`.

    run: as `python -m trainers.run` takes it; `data` may be left out. resume: go on from the newest save in its `work`
    folder, where there is one. See `trainers.engine.training.trainer`.
    """
    from trainers.engine.training.opening import open_trainer

    return open_trainer(run, resume=resume)


def fit(
    trainer: Trainer,
    batches: BatchLoader | MakeRows,
    validation: BatchLoader | Validate | None = None,
    *,
    beside: Sequence[Trainer] = (),
) -> Mapping[str, float]:
    """Train to the last step as `python -m trainers.run` does, with its saves, metrics and signals, on rows that are
    made step by step: `engine.fit(trainer, lambda step: rows)`. See `trainers.engine.training.loop`.
    """
    from trainers.engine.training import loop

    return loop.fit(trainer, batches, validation, beside=beside)
