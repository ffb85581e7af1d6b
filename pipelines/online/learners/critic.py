"""The critic of PPO: a network that says what is still to be earned before every token (`label.values`), and learns the
returns that came of it (`train.value`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.columns.counted_tokens import CountedTokens
from datakit.op import Capability
from pipelines.online.learner import Learner
from schemas.rows.rollouts import RETURNS, VALUES


class Critic(Learner):
    """A network with a scalar head, in training by `value`."""

    name: ClassVar[str] = "critic"
    answers: ClassVar[tuple[Capability, ...]] = ("values",)
    shown: ClassVar[tuple[str, ...]] = (
        "loss", "value", "return", "squared_error", "clip_fraction", "lr", "grad_norm",
    )  # fmt: skip
    charts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "clipped tokens": ("critic_clip_fraction",),
        "loss of the critic": ("critic_loss", "critic_squared_error"),
        "what is still to be earned": ("critic_value", "critic_return"),
        "explained variance": ("explained_variance",),
    }

    def figures(self, rows: pa.Table) -> dict[str, float]:
        """How much of the returns' variance the values had explained."""
        return {"explained_variance": explained_variance(rows)}


def explained_variance(rows: pa.Table) -> float:
    """1 - Var(R - V) / Var(R) over counted tokens: 1 for a critic that knows, 0 for one that says one number, below 0
    for one that is worse. 0 where all returns are alike.
    """
    tokens = CountedTokens.of(rows, "loss_mask")
    return_C: npt.NDArray[np.float64] = tokens.read(RETURNS.name)
    variance = float(np.var(return_C)) if len(return_C) else 0.0
    return 1.0 - float(np.var(return_C - tokens.read(VALUES.name))) / variance if variance else 0.0
