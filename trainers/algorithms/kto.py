"""Kahneman-Tversky optimization: answers that are wanted or not, one by one, against what any answer would gain.

    r    = log pi(y) - log pi_ref(y)                              a sum over counted tokens, or their mean
    z    = max(0, mean of log pi(y') - log pi_ref(y'))            over all rows of the global batch, without gradient
    loss = desirable_weight (1 - sigma(beta (r - z)))             where y is wanted
           undesirable_weight (1 - sigma(beta (z - r)))           where it is not                  mean over rows

Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization" (2024, arXiv:2402.01306). y' is another
row's answer to this row's question (`blend.mismatch`), so z estimates how far the policy is from its reference. TRL
and NeMo-Aligner take z of each micro-batch; here it does not depend on the cut. NeMo-Aligner calls beta
`ref_policy_kl_penalty`; its reported rewards lack the beta that these have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from schemas.rows.conversation import IDS
from schemas.rows.feedback import FEEDBACK_TOKENS
from schemas.rows.tokens import MASK
from schemas.schema import Column
from schemas.setting_faults import check_ranges
from trainers.algorithm import (
    Algorithm,
    Loss,
    ModelOutputs,
    Needs,
    Per,
    Rows,
    SumCount,
    TokenColumn,
    sum_count,
)
from trainers.preference import answer_logprobs, gain, gain_reward


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`beta`: how far the policy may go from its reference (greater is closer). The weights balance unequal numbers of
    rows: the paper wants desirable_weight * wanted rows to be 1 to 4/3 times undesirable_weight * unwanted ones.
    `average_log_probs` divides both policies' sums by the number of counted tokens.
    """

    beta: float = 0.2
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    average_log_probs: bool = False

    def __post_init__(self) -> None:
        check_ranges(
            "kto",
            beta=(self.beta, self.beta > 0, "above 0"),
            desirable_weight=(self.desirable_weight, self.desirable_weight > 0, "above 0"),
            undesirable_weight=(self.undesirable_weight, self.undesirable_weight > 0, "above 0"),
        )


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """How far a row is from being as good, or as bad, as it should be [B]; `reward` is beta r, `kl` is z."""
    answers = answer_logprobs(outputs["input_ids"], rows["loss_mask"])
    reward = gain_reward(settings)
    reward_B = reward.scale * gain(reward, *answers, rows, "ref_logprob")
    reference = rows["kl"].to(reward_B.dtype).clamp(min=0)
    wanted_B = rows["desirable"] != 0
    gain_B = reward_B - settings.beta * reference
    values_B = (settings.desirable_weight * (-gain_B).sigmoid()).where(
        wanted_B, settings.undesirable_weight * gain_B.sigmoid()
    )
    metrics = {
        "reward_desirable": sum_count(reward_B, wanted_B),
        "reward_undesirable": sum_count(reward_B, ~wanted_B),
        "kl": sum_count(reference.expand(reward_B.shape)),
    }
    ones_B = values_B.new_ones(values_B.shape)
    return Loss(values=values_B, weights=ones_B, metrics=metrics, row_metrics={"reward": reward_B})


def reference_point(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Mapping[str, SumCount]:
    """What the policy gains over its reference on answers to other questions, before it is clamped at 0."""
    mismatched = answer_logprobs(outputs["mismatched_ids"], rows["mismatched_mask"])
    return {"kl": sum_count(gain(gain_reward(settings), *mismatched, rows, "ref_logprob_mismatched"))}


KTO = Algorithm(
    name="kto",
    rows=FEEDBACK_TOKENS.dropping("source").adding(
        Column("ref_logprob", pa.float64(), "log-probability of input_ids' counted tokens, by the reference policy"),
        Column("mismatched_ids", IDS, "the question and an answer to another one, templated"),
        Column("mismatched_mask", MASK, "as in loss_mask"),
        Column("ref_logprob_mismatched", pa.float64(), "the same of mismatched_ids"),
    ),
    sequences=(
        TokenColumn(ids="input_ids", mask="loss_mask", reference="ref_logprob"),
        TokenColumn(
            ids="mismatched_ids", mask="mismatched_mask", reference="ref_logprob_mismatched", statistics_only=True
        ),
    ),
    needs=Needs.LOGPROBS,
    per=Per.ROW,
    settings=Settings,
    loss=loss,
    metrics=("reward_desirable", "reward_undesirable", "kl"),
    row_metrics=("reward",),
    implicit_reward=gain_reward,
    statistics=("kl",),
    statistics_of=reference_point,
)
