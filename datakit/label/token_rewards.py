"""label.token_rewards: what each token of an answer earned: its reward at the end, less what it spent on the way.

    r_t = -kl_coefficient KL_t  +  (t is the last counted token) (reward + overlong - length_penalty tokens)
    overlong = min(-(tokens - (max_tokens - overlong_buffer)) / overlong_buffer * overlong_penalty, 0)

The divergence as a part of the reward is the one of Ouyang et al., "InstructGPT" (2022, arXiv:2203.02155), and of
NeMo-Aligner (whose `initial_policy_kl_penalty` is 0.01); overlong shaping is DAPO's (Yu et al. 2025, arXiv:2503.14476).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from datakit.columns.counted_tokens import CountedTokens, Floats
from datakit.columns.measurement import NOT_FINITE, numbers
from datakit.op import Context, FilterDecision, Label, LabelResult
from schemas import Column, Schema
from schemas.rows.rollouts import TOKEN_REWARDS
from schemas.setting_faults import check_ranges


@dataclass(frozen=True, kw_only=True)
class TokenRewards(Label):
    """Adds `token_rewards`, at every token that `mask` counts, and `shaped_reward`, their sum: the reward of
    `label.rloo` and `label.group_advantage` where shaping is wanted.

    A row whose reward (or divergence at a counted token) is not finite is rejected as `not-finite`, one without a
    counted token, which could earn nothing, as `no-counted-token`.
    """

    name: ClassVar[str] = "label.token_rewards"

    reward: str = "reward"
    kl: str = "token_kl"
    """Read where `kl_coefficient` is not 0 (`label.kl`)."""
    kl_coefficient: float = 0.0
    max_tokens: int = 0
    """Most tokens that an answer may have, for overlong shaping; 0: there is none."""
    overlong_buffer: int = 0
    """The last so many of `max_tokens` cost more and more."""
    overlong_penalty: float = 1.0
    """What an answer of `max_tokens` tokens costs."""
    length_penalty: float = 0.0
    """What every counted token costs."""
    mask: str = "loss_mask"

    def __post_init__(self) -> None:
        shaped = (self.max_tokens, self.overlong_buffer)
        check_ranges(
            self.name,
            kl_coefficient=(self.kl_coefficient, self.kl_coefficient >= 0, "at least 0"),
            max_tokens=(self.max_tokens, 0 <= self.max_tokens < 1 << 31, "at least 0"),
            overlong_buffer=(
                self.overlong_buffer,
                shaped == (0, 0) or 0 < self.overlong_buffer <= self.max_tokens,
                "in 1 .. max_tokens, or both 0",
            ),
            overlong_penalty=(self.overlong_penalty, self.overlong_penalty >= 0, "at least 0"),
            length_penalty=(self.length_penalty, self.length_penalty >= 0, "at least 0"),
        )

    @property
    def token_bytes(self) -> int:
        return 4

    @property
    def takes(self) -> Schema:
        """Reward and mask; the divergence where it is subtracted."""
        spent = (self.kl,) if self.kl_coefficient else ()
        reward = Column(self.reward, pa.float64(), "reward of the whole answer", nullable=True)
        return CountedTokens.reading("rewarded rollouts", self.mask, *spent).adding(reward)

    @property
    def adds(self) -> tuple[Column, ...]:
        return (TOKEN_REWARDS, Column("shaped_reward", pa.float64(), "their sum over the answer", finite=True))

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        tokens = CountedTokens.of(rows, self.mask)
        some_B = tokens.lengths_B > 0
        last_B = numbers(rows[self.reward]) + self._of_length(tokens.lengths_B.astype(np.float64))
        earned_C = -self.kl_coefficient * tokens.read(self.kl) if self.kl_coefficient else tokens.each(0.0 * last_B)
        earned_C[tokens.stops_B[some_B] - 1] += last_B[some_B]
        finite_B = tokens.finite(earned_C) & np.isfinite(last_B)
        shaped_B = np.where(finite_B, tokens.sums(np.nan_to_num(earned_C)), 0.0)
        reason = pa.array(np.where(some_B, NOT_FINITE, "no-counted-token"), pa.string())
        columns = {TOKEN_REWARDS.name: tokens.column(earned_C), "shaped_reward": pa.array(shaped_B)}
        return LabelResult(columns, FilterDecision(pa.array(finite_B & some_B), reason))

    def _of_length(self, tokens_B: Floats) -> Floats:
        """What an answer of so many tokens earns by that, never above 0 [B]."""
        earned_B = -self.length_penalty * tokens_B
        if self.overlong_buffer:
            beyond_B = (tokens_B - (self.max_tokens - self.overlong_buffer)) / self.overlong_buffer
            earned_B += np.minimum(-beyond_B * self.overlong_penalty, 0.0)
        return earned_B
