"""label.importance_weights: how much more the training policy likes a token than the engine that drew it.

    w_t = exp(old_logprob_t - drawn_logprob_t)

`truncate`: clamped to the bounds (Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training",
2025). `mask`: 0 outside the bounds. `sequence`: 0 in all of an answer whose geometric mean of w leaves them, and w
itself in the others. w depends on frozen numbers alone, so it is a column and no part of a loss: every policy loss is
in proportion to the advantage, and an advantage times w weighs its token by w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from datakit.columns.counted_tokens import CountedTokens, Floats
from datakit.columns.measurement import NOT_FINITE
from datakit.op import Context, FilterDecision, Label, LabelResult
from schemas import Column, Schema
from schemas.rows.rollouts import ADVANTAGES, IMPORTANCE_WEIGHTS
from schemas.setting_faults import check_ranges

_BOUNDS = {"truncate": (0.0, 2.0), "mask": (0.5, 5.0), "sequence": (0.999, 1.002)}


@dataclass(frozen=True, kw_only=True)
class ImportanceWeights(Label):
    """Adds `importance_weights`, at every token that `mask` counts, and `importance_ratio`, the geometric mean of w
    over an answer's counted tokens before anything is cut; `advantages` becomes what it was times the weights.

    A row with a log-probability that is not finite at a counted token is rejected as `not-finite`.
    """

    name: ClassVar[str] = "label.importance_weights"

    kind: Literal["truncate", "mask", "sequence"] = "truncate"
    lower: float | None = None
    """null: 0, 0.5 or 0.999, as `kind` is truncate, mask or sequence."""
    upper: float | None = None
    """null: 2, 5 or 1.002."""
    policy: str = "old_logprobs"
    drawn: str = "drawn_logprobs"
    advantages: str = "advantages"
    """Empty: no column is weighed."""
    mask: str = "loss_mask"

    def __post_init__(self) -> None:
        lower, upper = self.bounds
        check_ranges(
            self.name,
            lower=(lower, 0 <= lower <= 1, "in [0, 1]"),
            upper=(upper, 1 <= upper < np.inf, "at least 1"),
        )

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest weight, or geometric mean of weights."""
        lower, upper = _BOUNDS[self.kind]
        return lower if self.lower is None else self.lower, upper if self.upper is None else self.upper

    @property
    def token_bytes(self) -> int:
        return 8 if self.advantages else 4

    @property
    def takes(self) -> Schema:
        weighed = (self.advantages,) if self.advantages else ()
        return CountedTokens.reading("drawn rollouts", self.mask, self.policy, self.drawn, *weighed)

    @property
    def adds(self) -> tuple[Column, ...]:
        ratio = Column("importance_ratio", pa.float64(), "geometric mean of w over the answer", finite=True)
        weighed = Column(self.advantages, ADVANTAGES.type, "as it was, times the importance weight")
        return (IMPORTANCE_WEIGHTS, ratio, *((weighed,) if self.advantages else ()))

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        tokens = CountedTokens.of(rows, self.mask)
        log_C = tokens.read(self.policy) - tokens.read(self.drawn)
        finite_B = tokens.finite(log_C)
        log_C = np.where(np.isfinite(log_C), log_C, 0.0)
        ratio_B = np.exp(np.minimum(tokens.sums(log_C) / np.maximum(tokens.lengths_B, 1), 80.0))
        weight_C = self._cut(np.exp(np.minimum(log_C, 80.0)), tokens.each(ratio_B))
        columns = {IMPORTANCE_WEIGHTS.name: tokens.column(weight_C), "importance_ratio": pa.array(ratio_B)}
        if self.advantages:
            weighed_C = tokens.read(self.advantages) * weight_C
            columns[self.advantages], finite_B = tokens.column(weighed_C), finite_B & tokens.finite(weighed_C)
        return LabelResult(columns, FilterDecision(pa.array(finite_B), NOT_FINITE))

    def _cut(self, weight_C: Floats, ratio_C: Floats) -> Floats:
        """Weights as `kind` cuts them, which for `sequence` goes by the answer's ratio."""
        lower, upper = self.bounds
        if self.kind == "truncate":
            return np.clip(weight_C, lower, upper)
        measured_C = weight_C if self.kind == "mask" else ratio_C
        return np.where((measured_C >= lower) & (measured_C <= upper), weight_C, 0.0)
