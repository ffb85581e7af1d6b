"""Direct preference optimization: prefer the chosen answer by as much as a reference policy allows.

    D    = (log pi(c) - log pi_ref(c)) - (log pi(r) - log pi_ref(r))      sums over counted tokens, or means of them
    loss = - (1 - e) log sigma(beta D) - e log sigma(-beta D)  +  sft_weight * -log pi(c)       mean over pairs

Rafailov et al., "Direct Preference Optimization" (2023, arXiv:2305.18290); e is `label_smoothing`, conservative DPO of
Mitchell, "A note on DPO with noisy preferences" (2023). The reference's log-probs are columns (`label.logprobs`), so
there is one network here. NeMo-Aligner calls beta `ref_policy_kl_penalty`; its reported rewards lack the beta that
these have. Presets: `cdpo` is conservative DPO; `dpo_norm` is length-normalised as in Lambert et al., "Tulu 3" (2024,
arXiv:2411.15124); `spin` is that of self-play, Chen et al. (2024, arXiv:2401.01335), whose rejected answers are the
policy's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.setting_faults import check_ranges
from trainers.algorithm import Loss, ModelOutputs, Rows
from trainers.arithmetic import bradley_terry
from trainers.preference import REFERRED, gain_reward, pair_algorithm, pair_logprobs, pair_loss, sft_loss


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`beta`: how far the policy may go from its reference (greater is closer). `average_log_probs` divides both
    policies' sums by the number of counted tokens. `sft_weight` weighs the chosen answer's own loss, a sum or (with
    `sft_average_log_probs`, default: as `average_log_probs`) a mean over its tokens.
    """

    beta: float = 0.2
    label_smoothing: float = 0.0
    average_log_probs: bool = False
    sft_weight: float = 0.0
    sft_average_log_probs: bool | None = None

    def __post_init__(self) -> None:
        check_ranges(
            "dpo",
            beta=(self.beta, self.beta > 0, "above 0"),
            label_smoothing=(self.label_smoothing, 0 <= self.label_smoothing < 0.5, "in [0, 0.5)"),
            sft_weight=(self.sft_weight, self.sft_weight >= 0, "at least 0"),
        )


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """Surprise at the preference per pair [B]."""
    pair = pair_logprobs(outputs, rows)
    rewards = pair.rewards(gain_reward(settings), rows)
    margin_B = rewards[0] - rewards[1]
    smoothing = settings.label_smoothing
    preference_B = (1 - smoothing) * bradley_terry(margin_B) + smoothing * bradley_terry(-margin_B)
    averaged = settings.average_log_probs if settings.sft_average_log_probs is None else settings.sft_average_log_probs
    return pair_loss(preference_B, sft_loss(pair, average=averaged), rewards, sft_weight=settings.sft_weight)


DPO = pair_algorithm(
    "dpo",
    REFERRED,
    Settings,
    loss,
    gain_reward,
    presets={
        "cdpo": {"label_smoothing": 0.1},
        "dpo_norm": {"average_log_probs": True, "beta": 5.0},
        "spin": {"beta": 0.1},
    },
    in_recipes={"beta": 0.1},  # the paper's, where the default is NeMo-Aligner's
)
