"""Anchored preference optimization: both answers are held against a reward of zero, not only against each other.

    r(y)  = beta (log pi(y) - log pi_ref(y))      sums over counted tokens, or means of them
    zero    (1 - sigma(r(c))) + sigma(r(r))              chosen goes up, rejected goes down
    down    sigma(r(c)) + (1 - sigma(r(c) - r(r)))       both go down, rejected further
                                       + sft_weight * -log pi(c)       mean over pairs

D'Oosterlinck et al., "Anchored Preference Optimization and Contrastive Revisions" (2024, arXiv:2408.06266), whose terms
are these without the constant 1, which keeps the loss from being negative (as in TRL's `apo_zero` and `apo_down`).
`zero` suits chosen answers that are better than the policy's own, `down` those that are worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from schemas.setting_faults import check_ranges
from trainers.algorithm import Loss, ModelOutputs, Rows
from trainers.preference import REFERRED, gain_reward, pair_algorithm, pair_logprobs, pair_loss, sft_loss


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`anchor`: where rewards are drawn to. `beta` scales the log-ratio. `average_log_probs` divides both policies'
    sums, and that of the SFT term, by the number of counted tokens. `sft_weight` weighs the chosen answer's own loss.
    """

    anchor: Literal["zero", "down"] = "zero"
    beta: float = 0.1
    average_log_probs: bool = False
    sft_weight: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(
            "apo",
            beta=(self.beta, self.beta > 0, "above 0"),
            sft_weight=(self.sft_weight, self.sft_weight >= 0, "at least 0"),
        )


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """How far both rewards are from where they should go, per pair [B]."""
    pair = pair_logprobs(outputs, rows)
    rewards = pair.rewards(gain_reward(settings), rows)
    chosen_B, rejected_B = rewards
    if settings.anchor == "zero":
        preference_B = (-chosen_B).sigmoid() + rejected_B.sigmoid()
    else:
        preference_B = chosen_B.sigmoid() + (rejected_B - chosen_B).sigmoid()
    sft_B = sft_loss(pair, average=settings.average_log_probs)
    return pair_loss(preference_B, sft_B, rewards, sft_weight=settings.sft_weight)


APO = pair_algorithm(
    "apo", REFERRED, Settings, loss, gain_reward, presets={f"apo_{one}": {"anchor": one} for one in ("zero", "down")}
)
