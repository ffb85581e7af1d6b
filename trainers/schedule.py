"""The learning rate of a step: a function of its number alone, so a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from trainers.config import Optim


def learning_rate(optim: Optim, step: int, last: int) -> float:
    """The rate of step `step` (from 1) in a run of `last` steps: linear warm-up, then the schedule from `lr` down to
    `min_lr`, which it has behind the last step: as in Megatron-LM and transformers every step of a run learns.
    """
    if step <= optim.warmup_steps:
        return optim.lr * step / optim.warmup_steps
    if optim.schedule == "constant":
        return optim.lr
    done = min(1.0, (step - 1 - optim.warmup_steps) / max(1, last - optim.warmup_steps))
    left = 1 - done if optim.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return optim.min_lr + (optim.lr - optim.min_lr) * left


def unfinished_warmup(optim: Optim, last: int) -> str:
    """What is said of a run whose `last` step comes before the end of its warm-up; empty for any other."""
    if last >= optim.warmup_steps:
        return ""
    reached = learning_rate(optim, last, last)
    return f"{last} steps end within the warm-up of {optim.warmup_steps}: the rate gets to {reached:.2e} and no further"
