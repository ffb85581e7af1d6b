"""Batches that nobody has yet: the rows of a step are made when the step before is done, by the weights as they stand.

    def rollouts(step):  # steps made so far, from 0
        answers = apply(Complete(...), prompts, f"rollouts/step={step}", resources={"generator": ...})
        return apply(Advantages(...), answers, f"advantages/step={step}")

Rows follow from the number of the step and the weights, so a run that goes on from a save is given the same ones. What
is drawn from Python's, NumPy's and torch's generators while they are made follows from the run's seed and the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from schemas.canonical import json_digest
from schemas.errors import ConfigError
from trainers.engine.data.feed import GlobalBatch
from trainers.engine.megatron import parallel
from trainers.engine.training.trainer import Trainer
from trainers.launch import rank

MakeRows: TypeAlias = Callable[[int], Any]
"""The rows of a step, as `Trainer.learn` takes them, from how many steps were made; or a pair of them and figures by
name, which stand beside those of the step wherever it is reported. All processes are to give the same.
"""


class Rollouts:
    """A `BatchLoader` over rows that `make_rows` gives step by step; each step takes all of them."""

    sources: tuple[str, ...] = ()

    def __init__(self, trainer: Trainer, make_rows: MakeRows) -> None:
        if trainer.last is None:
            raise ConfigError(
                "no-last-step",
                "a run whose rows are made step by step has no last step",
                expected="max_steps",
                kept="nothing was started",
                next="give max_steps",
            )
        self.trainer, self.make_rows = trainer, make_rows
        self.label = (trainer.prepared.algorithm.rows.key or ("row",))[0]
        self.steps_per_epoch = trainer.last

    def steps(self, first: int, stop: int) -> Iterator[GlobalBatch]:
        """Steps `first` to `stop` - 1, each made when it is asked for."""
        seed = self.trainer.run.learning.seed
        for number in range(first, stop):
            rank.heartbeat(f"the rows of step {number + 1}")
            parallel.seed_all(int(json_digest({"seed": seed, "step": number})[:15], 16))
            made = self.make_rows(number)
            rows, figures = made if isinstance(made, tuple) else (made, None)
            yield self.trainer.batch(rows, checked_figures(figures))


def checked_figures(figures: Any) -> Mapping[str, float]:
    """`ConfigError` for figures that are no numbers by name."""
    given = {} if figures is None else figures
    if isinstance(given, Mapping) and all(isinstance(name, str) for name in given):
        try:
            return {name: float(value) for name, value in given.items()}
        except (TypeError, ValueError):
            pass
    raise ConfigError(
        "bad-figures",
        "what was given beside the rows of a step are no figures",
        expected="a dict of numbers by name",
        found=type(given).__name__,
        kept="the network and its optimizer, as they were",
        next="give the rows alone, or a pair of rows and a dict of numbers",
    )
