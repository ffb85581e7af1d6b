"""Group sequence policy optimization: one ratio for a whole answer, the geometric mean of its tokens'.

    s    = exp(mean over the answer's counted tokens of log pi - log pi_old)
    loss = max(-A s, -A clip(s, 1 - clip_low, 1 + clip_high))
           +  kl_coefficient * KL  -  entropy_bonus * H                               mean over rows of a row's mean

Zheng et al. (2025, arXiv:2507.18071), in its form for tokens: the value of s is the answer's, its gradient that of the
token, so advantages may differ within an answer; where they do not, both forms have the same gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from schemas.setting_faults import check_ranges
from trainers.algorithm import Loss, ModelOutputs, Rows, sum_count
from trainers.policy import CLIP_NAMES, RatioSettings, clipped, log_ratio, policy_algorithm, policy_loss, ratio_of


@dataclass(frozen=True, kw_only=True)
class Settings(RatioSettings):
    """`clip_low` and `clip_high`: how far below and above 1 an answer's ratio pays; the paper's are far smaller than
    those of a token's ratio.
    """

    aggregate: Literal["token", "sequence", "constant"] = "sequence"
    other_names: ClassVar[Mapping[str, str]] = CLIP_NAMES

    clip_low: float = 3e-4
    clip_high: float = 4e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(
            "gspo",
            clip_low=(self.clip_low, 0 < self.clip_low <= 1, "in (0, 1]"),
            clip_high=(self.clip_high, self.clip_high > 0, "above 0"),
        )


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """The clipped surrogate of the answer's ratio, per row or per token as `aggregate` says."""
    out = outputs["input_ids"]
    log_T = log_ratio(settings, out, rows)
    mask_T = rows["loss_mask"].to(log_T.dtype)
    mean_B = out.sum_per_row(log_T.detach() * mask_T) / out.sum_per_row(mask_T).clamp(min=1)
    ratio_T = ratio_of(mean_B[out.row_T] + log_T - log_T.detach())
    surrogate_T, share = clipped(ratio_T, rows, settings.clip_low, settings.clip_high)
    metrics = {"ratio": sum_count(ratio_T, rows["loss_mask"]), "clip_fraction": share}
    return policy_loss(settings, out, rows, surrogate_T, metrics)


GSPO = policy_algorithm("gspo", Settings, loss, ("ratio", "clip_fraction"))
