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

from schemas.setting_faults import check_ranges
from trainers.algorithm import Loss, ModelOutputs, Rows
from trainers.arithmetic import bradley_terry
from trainers.preference import SCORED, pair_scores, score_algorithm, score_loss


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`center`: weight of the squared sum of a pair's rewards; 0 is plain Bradley-Terry, 0.01 is usual."""

    center: float = 0.0

    def __post_init__(self) -> None:
        check_ranges("rm", center=(self.center, self.center >= 0, "at least 0"))


def loss(settings: Settings, outputs: Mapping[str, ModelOutputs], rows: Rows) -> Loss:
    """Surprise at the preference, and distance from zero, per pair [B]."""
    chosen_B, rejected_B = scores = pair_scores(outputs)
    values_B = bradley_terry(chosen_B - rejected_B) + settings.center * (chosen_B + rejected_B).square()
    return score_loss(values_B, scores)


RM = score_algorithm("rm", SCORED, Settings, loss)
