"""Simple preference optimization: the mean log-probability is the reward, and no reference is needed.

    m(x) = log pi(x) / number of counted tokens
    loss = - log sigma(beta (m(c) - m(r)) - gamma)  +  sft_weight * -m(c)         mean over pairs

Meng et al., "SimPO: Simple Preference Optimization with a Reference-Free Reward" (2024, arXiv:2405.14734). TRL has it
as CPO's loss `simpo`, with gamma as `simpo_gamma`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.setting_faults import check_ranges
from trainers.algorithm import Loss, ModelOutputs, Rows
from trainers.arithmetic import bradley_terry
from trainers.preference import ANSWERS, mean_reward, pair_algorithm, pair_logprobs, pair_loss, sft_loss


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`beta` scales the mean log-probability, `gamma` is the margin that is aimed at; the paper's gamma / beta is about
    0.5. `sft_weight` weighs the chosen answer's own loss, a mean over its tokens.
    """

    beta: float = 2.0
    gamma: float = 1.0
    sft_weight: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(
            "simpo",
            beta=(self.beta, self.beta > 0, "above 0"),
            gamma=(self.gamma, self.gamma >= 0, "at least 0"),
            sft_weight=(self.sft_weight, self.sft_weight >= 0, "at least 0"),
        )


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """Surprise at the preference per pair [B]."""
    pair = pair_logprobs(outputs, rows)
    rewards = pair.rewards(mean_reward(settings), rows)
    preference_B = bradley_terry(rewards[0] - rewards[1] - settings.gamma)
    return pair_loss(preference_B, sft_loss(pair, average=True), rewards, sft_weight=settings.sft_weight)


SIMPO = pair_algorithm("simpo", ANSWERS, Settings, loss, mean_reward)
