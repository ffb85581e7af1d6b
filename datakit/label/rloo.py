"""label.rloo: REINFORCE with a leave-one-out baseline: an answer against the mean of the others to its prompt.

    advantage_i = reward_i - sum_{j != i} reward_j / (n - 1)

Kool et al., "Buy 4 REINFORCE Samples, Get a Baseline for Free!" (2019); Ahmadian et al., "Back to Basics" (2024,
arXiv:2402.14740). NeMo-Aligner's REINFORCE lets answers that were cut have no say (`voters` ended), but divides by one
too few for the cut answer itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from datakit.columns.counted_tokens import Floats
from datakit.columns.group_rewards import GroupRewards, Groups


@dataclass(frozen=True, kw_only=True)
class Rloo(GroupRewards):
    """Adds what `label.group_advantage` adds: `advantage` and, at each token that `mask` counts, `advantages`, with
    `baseline`, `group_size` and `group_std`. `reward` is `shaped_reward` of `label.token_rewards` where the divergence
    from a reference is part of the reward.
    """

    name: ClassVar[str] = "label.rloo"
    makes: ClassVar = ({},)

    def estimate(self, groups: Groups) -> tuple[Floats, Floats]:
        """Against the mean of the others."""
        baseline_B = groups.mean_of_others_B
        return groups.reward_B - baseline_B, baseline_B
