"""The engine: the only code that knows Megatron-Core.

Importing this package costs nothing but makes Megatron-Core importable on a machine without CUDA:
`cpu.install` puts a finder in front of `megatron.core` that decides when the first of its modules is asked
for. Everything below runs the same modules on CPU (gloo) and on GPU (NCCL).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainers.engine.megatron import cpu

if TYPE_CHECKING:
    from trainers.config import Run
    from trainers.engine.training.trainer import Trainer

cpu.install()


def open(run: Run) -> Trainer:  # noqa: A001 - called as `engine.open`
    """A network in training, to be used from Python: `with engine.open(run) as trainer: trainer.learn(rows)`.

    run: as `python -m trainers.run` takes it; `data` may be left out. See `trainers.engine.training.trainer`.
    """
    from trainers.engine.training.trainer import open_trainer

    return open_trainer(run)
