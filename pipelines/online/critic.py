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

from datakit.clients.protocols import TokenRows
from datakit.columns.counted_tokens import CountedTokens
from datakit.run.resource import Resource
from schemas.rows.rollouts import RETURNS, VALUES

if TYPE_CHECKING:
    from trainers.engine.megatron.leading import Lead
    from trainers.engine.training.trainer import Trainer

_ASKED = ("logprobs", "entropies", "values", "top_k", "logprobs_at")
_SHOWN = ("loss", "value", "return", "squared_error", "clip_fraction", "lr", "grad_norm")
"""Figures of its steps that stand beside those of the policy, as `critic_<name>`."""


class Led:
    """A network of the run as a `TokenModel`: whenever it is asked, all ranks compute together."""

    def __init__(self, lead: Lead, name: str) -> None:
        self._lead, self._name = lead, name

    def logprobs(self, rows: TokenRows) -> pa.Array:
        """Log-probability of every token by this network, nats."""
        return self._lead.ask(f"{self._name}.logprobs", rows)

    def entropies(self, rows: TokenRows) -> pa.Array:
        """Entropy (nats) of what every token was drawn from."""
        return self._lead.ask(f"{self._name}.entropies", rows)

    def values(self, rows: TokenRows) -> pa.Array:
        """The head's number before every token."""
        return self._lead.ask(f"{self._name}.values", rows)

    def top_k(self, rows: TokenRows, k: int) -> tuple[pa.Array, pa.Array]:
        """The likeliest ids at every token, and their log-probabilities."""
        asked: tuple[pa.Array, pa.Array] = self._lead.ask(f"{self._name}.top_k", rows, k)
        return asked

    def logprobs_at(self, rows: TokenRows, ids: TokenRows) -> pa.Array:
        """Log-probabilities of the `ids` that are named."""
        return self._lead.ask(f"{self._name}.logprobs_at", rows, ids)


class Critic:
    """The critic's training, as the steps of a run use it."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self._model = trainer, trainer.token_model()

    @property
    def weights(self) -> str:
        """The checksum of its weights as they stand. All processes ask."""
        return self.trainer.weights_checksum

    @property
    def served(self) -> dict[str, Callable[..., Any]]:
        """What ranks are asked to do together."""
        return {f"critic.{name}": getattr(self._model, name) for name in _ASKED}

    def resource(self, lead: Lead, weights: str) -> Resource:
        """What `label.values` asks; `weights` is the checksum of those that it has."""
        return Resource(weights, lambda: Led(lead, "critic"))

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
