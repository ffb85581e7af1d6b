"""A reward model from preferences of known strength, after Bradley and Terry (1952).

    S       = margin_scale |chosen_reward - rejected_reward|             how much better the chosen answer is
    margin  - log sigma(r_chosen - r_rejected - S)
    scaled  - S log sigma(r_chosen - r_rejected)     + center (r_chosen + r_rejected)^2          mean over pairs

The reward r is the scalar head at the last token. The margin is that of Touvron et al., "Llama 2" (2023,
arXiv:2307.09288) and TRL's column `margin`; the scaled loss that of Wang et al., "HelpSteer2-Preference" (2024,
arXiv:2410.01257). NeMo-Aligner calls them `margin_bt` and `scaled_bt`; what is strength there is the difference of the
rewards here, its sign being which answer is the chosen one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from schemas.setting_faults import check_ranges
from trainers.algorithm import Loss, ModelOutputs, Rows
from trainers.arithmetic import bradley_terry
from trainers.preference import KNOWN_REWARDS, SCORED, pair_scores, score_algorithm, score_loss


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`strength`: whether it is a margin that the rewards must have, or what a pair weighs. `margin_scale` brings it to
    the size wanted; `center` as in `rm`.
    """

    strength: Literal["margin", "scaled"] = "margin"
    margin_scale: float = 1.0
    center: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(
            "rm_margin",
            margin_scale=(self.margin_scale, self.margin_scale > 0, "above 0"),
            center=(self.center, self.center >= 0, "at least 0"),
        )


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """Surprise at the preference, and distance from zero, per pair [B]."""
    chosen_B, rejected_B = scores = pair_scores(outputs)
    strength_B = settings.margin_scale * (rows["chosen_reward"] - rows["rejected_reward"]).abs()
    if settings.strength == "margin":
        values_B = bradley_terry(chosen_B - rejected_B - strength_B)
    else:
        values_B = strength_B * bradley_terry(chosen_B - rejected_B)
    return score_loss(values_B + settings.center * (chosen_B + rejected_B).square(), scores)


RM_MARGIN = score_algorithm(
    "rm_margin",
    SCORED.adding(*KNOWN_REWARDS),
    Settings,
    loss,
    presets={"rm_scaled": {"strength": "scaled"}},
)
