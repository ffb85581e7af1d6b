"""The settings of training, as commands and recipes that train have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luigi.freezing import recursively_unfreeze

from pipelines.runtime.parameters import ObjectParameter, OptionalNumber, OptionalWhole
from trainers.algorithm import Algorithm
from trainers.config import Training, merged, training_of
from trainers.registry import algorithm_of, spelled_out


class Learns:
    """Of a command with `--set`, whose training has flags besides (`pipelines.runtime.near_flags.LEARNING_FLAGS`)."""

    lr = OptionalNumber(least=0, description="the same as --set optim.lr=...")
    epochs = OptionalWhole(description="the same as --set epochs=...")
    batch_size = OptionalWhole(description="rows of an optimizer step; the same as --set global_batch_size=...")
    eval_steps = OptionalWhole(description="validate every so many steps; the same as --set validate_every=...")


class ByAlgorithm:
    """Of a recipe whose training, `learning`, is by an algorithm that can be chosen."""

    algorithm: Any
    learning: Any
    changes: Any
    settled_seed: Any

    options = ObjectParameter(
        default={}, description="settings of the algorithm, as JSON, over a preset's and its own (beta of dpo: 0.1)"
    )

    @staticmethod
    def fits(algorithm: Algorithm) -> bool:
        """Whether the recipe has the rows that `algorithm` learns from."""
        return True

    def training_for(self, label: str, more: Mapping[str, Any] | None = None) -> Training:
        """The training that all flags together ask for; `more` are settings below those of `learning`."""
        _, options = spelled_out(self.algorithm, recursively_unfreeze(self.options))
        settings = {**algorithm_of(self.algorithm).in_recipes, **options}
        learning = merged({"settings": settings} if settings else {}, more or {})
        for given in (recursively_unfreeze(self.learning), self.changes.get("learning", {})):
            learning = merged(learning, given)
        return training_of(self.algorithm, learning, seed=self.settled_seed, where=f"learning of {label}")
