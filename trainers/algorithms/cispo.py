"""Clipped importance sampling: the clip bounds how much a token weighs, and never takes its gradient away.

    rho  = pi / pi_old, without gradient
    loss = -A clip(rho, ratio_low, ratio_high) log pi
           +  kl_coefficient * KL  -  entropy_bonus * H                               mean over counted tokens

MiniMax, "MiniMax-M1" (2025, arXiv:2506.13585), which sets no lower bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.setting_faults import check_ranges
from trainers.algorithm import Loss, ModelOutputs, Rows, sum_count
from trainers.policy import RatioSettings, advantages, log_ratio, policy_algorithm, policy_loss, ratio_of


@dataclass(frozen=True, kw_only=True)
class Settings(RatioSettings):
    """`ratio_low` and `ratio_high`: what a token weighs at least and at most; TRL's `epsilon_high` is the latter."""

    ratio_low: float = 0.0
    ratio_high: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(
            "cispo",
            ratio_low=(self.ratio_low, 0 <= self.ratio_low <= 1, "in [0, 1]"),
            ratio_high=(self.ratio_high, self.ratio_high >= 1, "at least 1"),
        )


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """The weighed log-probability, per token or per row as `aggregate` says; `clip_fraction` counts ratios that are out
    of bounds.
    """
    out = outputs["input_ids"]
    ratio_T = ratio_of(log_ratio(settings, out, rows).detach())
    weight_T = ratio_T.clamp(settings.ratio_low, settings.ratio_high)
    mask_T = rows["loss_mask"]
    metrics = {"ratio": sum_count(ratio_T, mask_T), "clip_fraction": sum_count(weight_T != ratio_T, mask_T)}
    return policy_loss(settings, out, rows, -advantages(rows) * weight_T * out.logprobs_T, metrics)


CISPO = policy_algorithm("cispo", Settings, loss, ("ratio", "clip_fraction"))
