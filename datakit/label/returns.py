"""label.returns: what is still earned from every token on, without anybody who expected something.

    R_t = r_t + gamma R_{t+1}

over counted tokens: one that is not counted is skipped. These are the advantages of REINFORCE (Williams 1992) and of
REINFORCE++ (Hu et al. 2025, arXiv:2501.03262), which whitens them over all answers of a step. With values of a critic
`label.gae` is what is meant.
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
class Returns(Label):
    """Adds `column`: at every token that `mask` counts, 0 elsewhere.

    `rewards` is a list with one number for every token (`label.token_rewards`). A row with a number that is not finite
    at a counted token is rejected as `not-finite`.
    """

    name: ClassVar[str] = "label.returns"

    gamma: float = 1.0
    rewards: str = "token_rewards"
    mask: str = "loss_mask"
    column: str = "advantages"

    def __post_init__(self) -> None:
        check_ranges(self.name, gamma=(self.gamma, 0 <= self.gamma <= 1, "in [0, 1]"))

    @property
    def token_bytes(self) -> int:
        return 4

    @property
    def takes(self) -> Schema:
        return CountedTokens.reading("token rewards", self.mask, self.rewards)

    @property
    def adds(self) -> tuple[Column, ...]:
        return (Column(self.column, NUMBERS, f"{self.rewards} from the token on, discounted"),)

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        """From the last counted token of every row to the first."""
        tokens = CountedTokens.of(rows, self.mask)
        return_C = tokens.accumulated(tokens.read(self.rewards), np.full(rows.num_rows, self.gamma))
        kept = FilterDecision(pa.array(tokens.finite(return_C)), NOT_FINITE)
        return LabelResult({self.column: tokens.column(return_C)}, kept)
