"""A reward model from preferences, after Bradley and Terry (1952).

    loss = - log sigma(r_chosen - r_rejected) + center (r_chosen + r_rejected)^2     mean over the pairs of the global
    batch

The reward r is the scalar head at the last token of a sequence. Christiano et al., "Deep reinforcement learning from
human preferences" (2017); NeMo-Aligner calls it `binary_ranking`. Preferences leave an offset of every prompt open; a
small `center` ties it to zero, so that rewards of different prompts can be held against one threshold. Eisenstein et
al., "Helping or Herding?" (2023, arXiv:2312.09244).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.rows.tokens import PAIRS
from trainers.algorithm import Algorithm, Loss, ModelOutputs, Needs, Per, Rows, TokenColumn, sum_count
from trainers.arithmetic import bradley_terry


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`center`: weight of the squared sum of a pair's rewards; 0 is plain Bradley-Terry, 0.01 is usual."""

    center: float = 0.0


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """Surprise at the preference, and distance from zero, per pair [B]; `accuracy` counts strictly greater rewards
    only.
    """
    chosen_B = outputs["chosen_ids"].scores_BH[:, 0]
    rejected_B = outputs["rejected_ids"].scores_BH[:, 0]
    values_B = bradley_terry(chosen_B - rejected_B) + settings.center * (chosen_B + rejected_B).square()
    metrics = {
        "accuracy": sum_count(chosen_B > rejected_B),
        "reward_chosen": sum_count(chosen_B),
        "reward_rejected": sum_count(rejected_B),
        "reward_margin": sum_count(chosen_B - rejected_B),
    }
    row_metrics = {"reward_chosen": chosen_B, "reward_rejected": rejected_B}
    return Loss(values=values_B, weights=values_B.new_ones(values_B.shape), metrics=metrics, row_metrics=row_metrics)


RM = Algorithm(
    name="rm",
    rows=PAIRS.dropping("chosen_mask", "rejected_mask", "source"),
    sequences=(TokenColumn(ids="chosen_ids"), TokenColumn(ids="rejected_ids")),
    needs=Needs.SCORES,
    per=Per.ROW,
    settings=Settings,
    loss=loss,
    metrics=("accuracy", "reward_chosen", "reward_rejected", "reward_margin"),
    row_metrics=("reward_chosen", "reward_rejected"),
)
