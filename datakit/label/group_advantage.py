"""label.group_advantage: how much better an answer is than the answers to the same prompt (GRPO and its family).

    advantage = (reward - baseline) / (scale + epsilon)

GRPO: baseline `mean`, scale `std` (Shao et al., "DeepSeekMath", 2024, arXiv:2402.03300). Dr.GRPO: scale `none` (Liu et
al., "Understanding R1-Zero-Like Training", 2025, arXiv:2503.20783). NeMo-RL's default: baseline `leave_one_out` and
scale `leave_one_out`. REINFORCE++ with a baseline: `mean`, `none`, and `label.whiten` behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from datakit.columns.counted_tokens import Floats
from datakit.columns.group_rewards import GroupRewards, Groups
from schemas.setting_faults import check_ranges


@dataclass(frozen=True, kw_only=True)
class GroupAdvantage(GroupRewards):
    """Adds `advantage` to every row of a `key` and, at each of its tokens that `mask` counts, `advantages`; beside them
    `baseline`, `group_size` and `group_std`, which is exactly 0 where all rewards are equal: `filter.where` with
    `group_std > 0` leaves out groups that give no signal (DAPO's dynamic sampling), and with `finish_reason = 'stop'`
    answers that were cut.

    Where the scale is 0 nothing is divided. A row whose reward is null, NaN or infinite goes as `not-finite`, and the
    others share what is left.
    """

    name: ClassVar[str] = "label.group_advantage"
    makes: ClassVar = ({},)

    baseline: Literal["mean", "leave_one_out"] = "mean"
    """The mean of all rewards, or of the others."""
    scale: Literal["std", "leave_one_out", "none"] = "std"
    """The standard deviation of all rewards, or of the others (n - 1)."""
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        check_ranges(self.name, epsilon=(self.epsilon, 0 <= self.epsilon <= 1, "in [0, 1]"))

    def estimate(self, groups: Groups) -> tuple[Floats, Floats]:
        """By `baseline` and `scale`; an answer without another has no baseline."""
        baseline_B = groups.mean_B if self.baseline == "mean" else groups.mean_of_others_B
        baseline_B = np.where(groups.others_B > 0, baseline_B, np.nan)
        advantage_B = groups.reward_B - baseline_B
        if self.scale == "none":
            return advantage_B, baseline_B
        scale_B = groups.std_B if self.scale == "std" else groups.std_of_others_B
        return advantage_B / np.where(scale_B > 0, scale_B + self.epsilon, 1.0), baseline_B
