"""label.gae: generalized advantage estimation, and the returns that a critic learns from.

    delta_t = r_t + gamma V_{t+1} - V_t                     V behind the last counted token is 0
    A_t     = delta_t + gamma lam A_{t+1}
    returns = A + V, of A with value_lam

over counted tokens: one that is not counted is skipped, and carries V and A on. Schulman et al., "High-Dimensional
Continuous Control Using Generalized Advantage Estimation" (2015, arXiv:1506.02438). A lambda of its own for values,
and one that follows the length, lam = 1 - 1 / (length_alpha * tokens), are VAPO's (2025, arXiv:2504.05118).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from datakit.columns.counted_tokens import CountedTokens
from datakit.columns.measurement import NOT_FINITE
from datakit.op import Context, FilterDecision, Label, LabelResult
from schemas import Column, Schema
from schemas.rows.rollouts import NUMBERS
from schemas.setting_faults import check_ranges


@dataclass(frozen=True, kw_only=True)
class Gae(Label):
    """Adds `advantages` and `returns`: at every token that `mask` counts, 0 elsewhere.

    `rewards` and `values` are lists with one number for every token (`label.token_rewards`, `label.values`). A row with
    a number that is not finite at a counted token is rejected as `not-finite`.
    """

    name: ClassVar[str] = "label.gae"

    gamma: float = 1.0
    lam: float = 0.95
    """lambda of the advantages: 0 trusts the critic alone, 1 the rewards alone."""
    value_lam: float | None = None
    """lambda of the returns; null: as `lam`."""
    length_alpha: float | None = None
    """Given: lambda of the advantages follows the length, clamped to [0, 1], and `lam` is that of the returns alone."""
    rewards: str = "token_rewards"
    values: str = "values"
    mask: str = "loss_mask"
    advantages: str = "advantages"
    returns: str = "returns"

    def __post_init__(self) -> None:
        value_lam = self.lam if self.value_lam is None else self.value_lam
        alpha = 1.0 if self.length_alpha is None else self.length_alpha
        check_ranges(
            self.name,
            gamma=(self.gamma, 0 <= self.gamma <= 1, "in [0, 1]"),
            lam=(self.lam, 0 <= self.lam <= 1, "in [0, 1]"),
            value_lam=(value_lam, 0 <= value_lam <= 1, "in [0, 1]"),
            length_alpha=(alpha, 0 < alpha < np.inf, "above 0"),
        )

    @property
    def token_bytes(self) -> int:
        return 8

    @property
    def takes(self) -> Schema:
        return CountedTokens.reading("valued rollouts", self.mask, self.rewards, self.values)

    @property
    def adds(self) -> tuple[Column, ...]:
        return (
            Column(self.advantages, NUMBERS, "how much better the token was than the critic expected"),
            Column(self.returns, NUMBERS, "what the critic should have expected"),
        )

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        """From the last counted token of every row to the first."""
        tokens = CountedTokens.of(rows, self.mask)
        reward_C, value_C = tokens.read(self.rewards), tokens.read(self.values)
        next_C = np.append(value_C[1:], 0.0)[: len(value_C)]
        next_C[tokens.stops_B[tokens.lengths_B > 0] - 1] = 0.0
        delta_C = reward_C + self.gamma * next_C - value_C
        lam_B = np.full(rows.num_rows, self.lam)
        if self.length_alpha is not None:
            lam_B = np.clip(1 - 1 / (self.length_alpha * np.maximum(tokens.lengths_B, 1)), 0, 1)
        advantage_C = tokens.accumulated(delta_C, self.gamma * lam_B)
        value_lam = self.lam if self.value_lam is None else self.value_lam
        same = self.length_alpha is None and value_lam == self.lam
        decay_B = np.full(rows.num_rows, self.gamma * value_lam)
        gained_C = advantage_C if same else tokens.accumulated(delta_C, decay_B)
        return_C = gained_C + value_C
        columns = {self.advantages: tokens.column(advantage_C), self.returns: tokens.column(return_C)}
        return LabelResult(columns, FilterDecision(pa.array(tokens.finite(advantage_C, return_C)), NOT_FINITE))
