"""Odds ratio preference optimization: supervised learning of the chosen answer, away from the rejected one.

    m(x) = log pi(x) / number of counted tokens,   odds(x) = exp m(x) / (1 - exp m(x))
    loss = -m(c)  -  beta log sigma(log odds(c) - log odds(r))                    mean over pairs

Hong et al., "ORPO: Monolithic Preference Optimization without Reference Model" (2024, arXiv:2403.07691), whose lambda
is beta here as in TRL. Only the answer is learnt, as in the paper; TRL's first term counts the question's tokens too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.setting_faults import check_ranges
from trainers.algorithm import Loss, ModelOutputs, Rows
from trainers.arithmetic import bradley_terry
from trainers.preference import ANSWERS, mean_reward, pair_algorithm, pair_logprobs, pair_loss, sft_loss

if TYPE_CHECKING:
    from torch import Tensor

_LIKELIEST = -1e-6
"""Mean log-probabilities are held below it: an answer that is certain would have infinite odds."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`beta` weighs the odds ratio against the chosen answer's own loss, which weighs 1."""

    beta: float = 0.1

    def __post_init__(self) -> None:
        check_ranges("orpo", beta=(self.beta, self.beta > 0, "above 0"))


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """Cross-entropy of the chosen answer and surprise at the preference per pair [B]."""
    pair = pair_logprobs(outputs, rows)
    chosen_B, rejected_B = pair.gains(mean_reward(settings), rows)
    preference_B = settings.beta * bradley_terry(_log_odds(chosen_B) - _log_odds(rejected_B))
    return pair_loss(
        preference_B, sft_loss(pair, average=True), pair.rewards(mean_reward(settings), rows), sft_weight=1.0
    )


def _log_odds(mean_B: Tensor) -> Tensor:
    """log(p / (1 - p)) of log-probabilities [B]."""
    certain_B = mean_B.clamp(max=_LIKELIEST)
    return certain_B - (-certain_B.expm1()).log()


ORPO = pair_algorithm("orpo", ANSWERS, Settings, loss, mean_reward)
