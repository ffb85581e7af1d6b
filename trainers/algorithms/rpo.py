"""Reward-aware preference optimization: the implicit reward's margin follows that of known rewards.

    D    = (log pi(c) - log pi_ref(c)) - (log pi(r) - log pi_ref(r))      sums over counted tokens, or means of them
    G    = reward_scale (chosen_reward - rejected_reward),  a = sigma(G),  b = sigma(beta D)
    sq      (beta D - G)^2
    bwd_kl  KL(Bernoulli(a) || Bernoulli(b))
    fwd_kl  KL(Bernoulli(b) || Bernoulli(a))                 + sft_weight * -log pi(c)       mean over pairs

Nvidia, "Nemotron-4 340B Technical Report" (2024, arXiv:2406.11704); the names are NeMo-Aligner's (`rpo_bwd_kl` has the
known rewards first). There beta is `ref_policy_kl_penalty` and reward_scale `gt_reward_scale`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from schemas.setting_faults import check_ranges
from trainers.algorithm import Loss, ModelOutputs, Rows
from trainers.arithmetic import bradley_terry
from trainers.preference import KNOWN_REWARDS, REFERRED, gain_reward, pair_algorithm, pair_logprobs, pair_loss, sft_loss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`distance`: what is made small. `beta` scales the log-ratio, `reward_scale` the known rewards.
    `average_log_probs` divides sums by the number of counted tokens, `sft_weight` weighs the chosen answer's own loss.
    """

    distance: Literal["sq", "bwd_kl", "fwd_kl"] = "bwd_kl"
    beta: float = 0.2
    reward_scale: float = 1.0
    average_log_probs: bool = False
    sft_weight: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(
            "rpo",
            beta=(self.beta, self.beta > 0, "above 0"),
            reward_scale=(self.reward_scale, self.reward_scale > 0, "above 0"),
            sft_weight=(self.sft_weight, self.sft_weight >= 0, "at least 0"),
        )


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """Distance between the two margins per pair [B]."""
    pair = pair_logprobs(outputs, rows)
    rewards = pair.rewards(gain_reward(settings), rows)
    margin_B = rewards[0] - rewards[1]
    known_B = settings.reward_scale * (rows["chosen_reward"] - rows["rejected_reward"])
    if settings.distance == "sq":
        preference_B = (margin_B - known_B).square()
    elif settings.distance == "bwd_kl":
        preference_B = _bernoulli_kl(known_B, margin_B)
    else:
        preference_B = _bernoulli_kl(margin_B, known_B)
    sft_B = sft_loss(pair, average=settings.average_log_probs)
    return pair_loss(preference_B, sft_B, rewards, sft_weight=settings.sft_weight)


def _bernoulli_kl(one_B: Tensor, other_B: Tensor) -> Tensor:
    """KL(Bernoulli(sigma(one)) || Bernoulli(sigma(other))), of logits [B]."""
    wins = one_B.sigmoid() * (bradley_terry(other_B) - bradley_terry(one_B))
    return wins + (-one_B).sigmoid() * (bradley_terry(-other_B) - bradley_terry(-one_B))


RPO = pair_algorithm(
    "rpo",
    REFERRED.adding(*KNOWN_REWARDS),
    Settings,
    loss,
    gain_reward,
    presets={f"rpo_{distance}": {"distance": distance} for distance in ("sq", "bwd_kl", "fwd_kl")},
)
