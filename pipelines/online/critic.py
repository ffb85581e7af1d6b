"""The critic of an online run: a second network in training, which says what is still to be earned before every token.

It is asked as any model of tokens (`label.values`) with the weights that it has as a step begins, and learns from the
very rows that the policy learns from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.columns.counted_tokens import CountedTokens
from pipelines.online import network
from pipelines.online.network import CRITIC
from schemas.rows.rollouts import RETURNS, VALUES

if TYPE_CHECKING:
    from trainers.engine.training.trainer import Trainer

_SHOWN = ("loss", "value", "return", "squared_error", "clip_fraction", "lr", "grad_norm")
"""Figures of its steps that stand beside those of the policy, as `critic_<name>`."""


class Critic:
    """The critic's training, as the steps of a run use it."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    @property
    def weights(self) -> str:
        """The checksum of its weights as they stand. All processes ask."""
        return self.trainer.weights_checksum

    @property
    def served(self) -> dict[str, Callable[..., Any]]:
        """What ranks are asked to do together."""
        return network.served(CRITIC, self.trainer.token_model())

    def learn(self, rows: pa.Table) -> dict[str, float]:
        """One optimizer step on `rows`; its figures, and how much of the returns' variance the values had explained."""
        made = {f"critic_{name}": value for name, value in self.trainer.learn(rows).items() if name in _SHOWN}
        return {**made, "explained_variance": explained_variance(rows)}


def explained_variance(rows: pa.Table) -> float:
    """1 - Var(R - V) / Var(R) over counted tokens: 1 for a critic that knows, 0 for one that says one number, below 0
    for one that is worse. 0 where all returns are alike.
    """
    tokens = CountedTokens.of(rows, "loss_mask")
    return_C: npt.NDArray[np.float64] = tokens.read(RETURNS.name)
    variance = float(np.var(return_C)) if len(return_C) else 0.0
    return 1.0 - float(np.var(return_C - tokens.read(VALUES.name))) / variance if variance else 0.0
