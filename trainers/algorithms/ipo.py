"""Identity preference optimization: the log-ratio of the pair aims at 1 / (2 beta), and no further.

    D    = (log pi(c) - log pi_ref(c)) - (log pi(r) - log pi_ref(r))      sums over counted tokens, or means of them
    loss = (D - 1 / (2 beta))^2  +  sft_weight * -log pi(c)               mean over pairs

Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences" (2023, arXiv:2310.12036),
where beta is tau. Sums are NeMo-Aligner's way and the paper's; TRL takes means: `average_log_probs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.setting_faults import check_ranges
from trainers.algorithm import Loss, ModelOutputs, Rows
from trainers.preference import REFERRED, gain_reward, pair_algorithm, pair_logprobs, pair_loss, sft_loss


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`beta`: greater aims at a smaller log-ratio. `average_log_probs` divides both policies' sums, and that of the SFT
    term, by the number of counted tokens. `sft_weight` weighs the chosen answer's own loss.
    """

    beta: float = 0.2
    average_log_probs: bool = False
    sft_weight: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(
            "ipo",
            beta=(self.beta, self.beta > 0, "above 0"),
            sft_weight=(self.sft_weight, self.sft_weight >= 0, "at least 0"),
        )


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """Squared distance from the aim per pair [B]."""
    pair = pair_logprobs(outputs, rows)
    chosen_B, rejected_B = pair.gains(gain_reward(settings), rows)
    preference_B = (chosen_B - rejected_B - 1 / (2 * settings.beta)).square()
    sft_B = sft_loss(pair, average=settings.average_log_probs)
    return pair_loss(preference_B, sft_B, pair.rewards(gain_reward(settings), rows), sft_weight=settings.sft_weight)


IPO = pair_algorithm("ipo", REFERRED, Settings, loss, gain_reward)
