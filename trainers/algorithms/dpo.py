"""Direct preference optimization: prefer the chosen answer by as much as a reference policy allows.

    D    = (log pi(c) - log pi_ref(c)) - (log pi(r) - log pi_ref(r))      sums over counted tokens, or means of them
    loss = - (1 - e) log sigma(beta D) - e log sigma(-beta D)  +  sft_weight * -log pi(c)       mean over pairs

Rafailov et al., "Direct Preference Optimization" (2023, arXiv:2305.18290); e is `label_smoothing`, conservative DPO of
Mitchell, "A note on DPO with noisy preferences" (2023). The reference's log-probs are columns (`label.logprobs`), so
there is one network here. NeMo-Aligner calls beta `ref_policy_kl_penalty`; its reported rewards lack the beta that
these have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from schemas.errors import ConfigError
from schemas.rows.tokens import PAIRS
from schemas.schema import Column
from trainers.algorithm import Algorithm, Loss, ModelOutputs, Needs, Per, Rows, TokenColumn, sum_count
from trainers.arithmetic import bradley_terry

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = PAIRS.dropping("source").adding(
    Column("ref_logprob_chosen", pa.float64(), "log-probability of chosen's counted tokens, by the reference policy"),
    Column("ref_logprob_rejected", pa.float64(), "the same of rejected"),
)


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
        if not self.beta > 0 or not 0 <= self.label_smoothing < 0.5 or not self.sft_weight >= 0:
            raise ConfigError(
                "bad-setting",
                "dpo: a setting is out of its range",
                expected="beta above 0, label_smoothing in [0, 0.5), sft_weight of at least 0",
                found=f"beta {self.beta}, label_smoothing {self.label_smoothing}, sft_weight {self.sft_weight}",
                kept="nothing was started",
            )


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """Surprise at the preference per pair [B]; `accuracy` counts strictly greater implicit rewards only."""
    chosen_B, chosen_tokens_B = _logprob(outputs["chosen_ids"], rows["chosen_mask"])
    rejected_B, rejected_tokens_B = _logprob(outputs["rejected_ids"], rows["rejected_mask"])
    ratio_chosen_B = chosen_B - rows["ref_logprob_chosen"]
    ratio_rejected_B = rejected_B - rows["ref_logprob_rejected"]
    if settings.average_log_probs:
        ratio_chosen_B, ratio_rejected_B = ratio_chosen_B / chosen_tokens_B, ratio_rejected_B / rejected_tokens_B
    reward_chosen_B, reward_rejected_B = settings.beta * ratio_chosen_B, settings.beta * ratio_rejected_B
    margin_B = reward_chosen_B - reward_rejected_B
    smoothing = settings.label_smoothing
    preference_B = (1 - smoothing) * bradley_terry(margin_B) + smoothing * bradley_terry(-margin_B)
    averaged = settings.average_log_probs if settings.sft_average_log_probs is None else settings.sft_average_log_probs
    sft_B = -(chosen_B / chosen_tokens_B if averaged else chosen_B)
    values_B = preference_B + settings.sft_weight * sft_B if settings.sft_weight else preference_B
    figures = {
        "preference_loss": preference_B,
        "sft_loss": sft_B,
        "accuracy": margin_B > 0,
        "reward_chosen": reward_chosen_B,
        "reward_rejected": reward_rejected_B,
        "reward_margin": margin_B,
    }
    metrics = {name: sum_count(values) for name, values in figures.items()}
    row_metrics = {"reward_chosen": reward_chosen_B, "reward_rejected": reward_rejected_B}
    return Loss(values=values_B, weights=values_B.new_ones(values_B.shape), metrics=metrics, row_metrics=row_metrics)


def _logprob(outputs: ModelOutputs, mask_T: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of the counted tokens of every row [B], and how many there are."""
    weights_T = mask_T.to(outputs.logprobs_T.dtype)
    return outputs.sum_per_row(outputs.logprobs_T * weights_T), outputs.sum_per_row(weights_T)


DPO = Algorithm(
    name="dpo",
    rows=_ROWS,
    sequences=(
        TokenColumn(ids="chosen_ids", mask="chosen_mask"),
        TokenColumn(ids="rejected_ids", mask="rejected_mask"),
    ),
    needs=Needs.LOGPROBS,
    per=Per.ROW,
    settings=Settings,
    loss=loss,
    metrics=("preference_loss", "sft_loss", "accuracy", "reward_chosen", "reward_rejected", "reward_margin"),
    row_metrics=("reward_chosen", "reward_rejected"),
)
