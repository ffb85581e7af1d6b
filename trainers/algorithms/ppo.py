"""Proximal policy optimization: the ratio to the policy that drew the tokens pays within a range around 1 only.

    rho  = pi / pi_old
    loss = max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)),  at most -A dual_clip where A < 0
           +  kl_coefficient * KL  -  entropy_bonus * H                               mean over counted tokens

Schulman et al. (2017, arXiv:1707.06347); dual clip: Ye et al. (2020, arXiv:1912.09729). With group advantages it is
GRPO (Shao et al. 2024, arXiv:2402.03300); asymmetric bounds are DAPO's (Yu et al. 2025, arXiv:2503.14476), the constant
length Dr.GRPO's (Liu et al. 2025, arXiv:2503.20783), and over whitened returns it is REINFORCE++ (Hu et al. 2025,
arXiv:2501.03262).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from schemas.setting_faults import check_ranges
from trainers.algorithm import Loss, ModelOutputs, Rows, sum_count
from trainers.policy import (
    CLIP_NAMES,
    RatioSettings,
    advantages,
    clipped,
    log_ratio,
    policy_algorithm,
    policy_loss,
    ratio_of,
)


@dataclass(frozen=True, kw_only=True)
class Settings(RatioSettings):
    """`clip_low` and `clip_high`: how far below and above 1 the ratio pays. `dual_clip`: above 1, what a bad token's
    ratio costs at most (verl has 3, NeMo-RL 10); null: no bound.
    """

    other_names: ClassVar[Mapping[str, str]] = CLIP_NAMES

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        bound = 2.0 if self.dual_clip is None else self.dual_clip
        check_ranges(
            "ppo",
            clip_low=(self.clip_low, 0 < self.clip_low <= 1, "in (0, 1]"),
            clip_high=(self.clip_high, self.clip_high > 0, "above 0"),
            dual_clip=(bound, bound > 1, "above 1"),
        )


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """The clipped surrogate, per token or per row as `aggregate` says; `clip_fraction` counts tokens on which the clip
    decides.
    """
    out = outputs["input_ids"]
    ratio_T = ratio_of(log_ratio(settings, out, rows))
    surrogate_T, share = clipped(ratio_T, rows, settings.clip_low, settings.clip_high)
    if settings.dual_clip is not None:
        advantage_T = advantages(rows)
        surrogate_T = surrogate_T.minimum(-settings.dual_clip * advantage_T).where(advantage_T < 0, surrogate_T)
    metrics = {"ratio": sum_count(ratio_T, rows["loss_mask"]), "clip_fraction": share}
    return policy_loss(settings, out, rows, surrogate_T, metrics)


PPO = policy_algorithm(
    "ppo",
    Settings,
    loss,
    ("ratio", "clip_fraction"),
    presets={
        "grpo": {"aggregate": "sequence"},
        "dr_grpo": {"aggregate": "constant"},
        "dapo": {"clip_high": 0.28},
        "reinforce_pp": {"clip_low": 0.2, "clip_high": 0.2, "aggregate": "token"},
    },
)
