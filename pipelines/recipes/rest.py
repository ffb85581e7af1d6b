"""Reinforced Self-Training: grow a dataset from the policy, improve the policy on what is good enough, again and again.

One Grow step (samples of this iteration's prompts, scored) and `thresholds` Improve steps: each trains the policy of
the step before on the samples whose reward is above its threshold, with rising thresholds, blended with original data.
Thresholds are quantiles of the iteration's rewards, or absolute numbers that standardised rewards are compared with.
Where rewards are so tied that none lies above a quantile, as when all answers are right, the rows at it are kept.
Gulcehre et al., "Reinforced Self-Training (ReST) for Language Modeling" (2023, arXiv:2308.08998).
"""

from __future__ import annotations

import luigi

from datakit.filter import Threshold
from datakit.label import Standardize
from pipelines.commands.iterations import AlignmentIteration
from pipelines.graph.nodes import Node
from pipelines.graph.plan import Plan
from pipelines.runtime.parameters import ListParameter, OptionalNumber
from schemas.errors import ConfigError, printable


class RestIteration(AlignmentIteration):
    """Iteration `iteration` of ReST; it requires all iterations before it, down to the setup's first policy."""

    title = "rest"

    thresholds = ListParameter(default=(0.4, 0.6), description="one improve step each; rising")
    threshold_kind = luigi.ChoiceParameter(
        default="quantile", choices=["absolute", "quantile"], description="what thresholds are"
    )
    reward_mean = OptionalNumber(description="mean to standardise with; empty: measured")
    reward_std = OptionalNumber(description="standard deviation to standardise with; empty: measured")

    def keep(self, plan: Plan, label: str, rewards: Node) -> list[Node]:
        """One filter for each threshold: of rewards, or of standardised rewards where thresholds are absolute."""
        wrong = [value for value in self.thresholds if isinstance(value, bool) or not isinstance(value, int | float)]
        if wrong:
            raise ConfigError(
                "bad-setting",
                f"thresholds holds {printable(wrong[0])!r}, which is not a number",
                expected="a list of numbers: '[0.4, 0.6]'",
                kept="nothing was started",
            )
        steps = [float(threshold) for threshold in self.thresholds]
        if not steps or steps != sorted(steps):
            raise ConfigError(
                "bad-setting",
                "thresholds rise from one improve step to the next",
                found=str(steps),
                kept="nothing was started",
            )
        if self.threshold_kind == "quantile":
            self._nothing_standardised()
            keeps = [Threshold(minimum_quantile=threshold) for threshold in steps]
        else:
            standard = Standardize(mean=self.reward_mean, std=self.reward_std, output="score")
            rewards = plan.table(f"{label}/scores", standard, rewards)
            keeps = [Threshold(column="score", minimum=threshold) for threshold in steps]
        return [plan.table(f"{label}/step={number}/kept", keep, rewards) for number, keep in enumerate(keeps, 1)]

    def _nothing_standardised(self) -> None:
        """`ConfigError` for moments to standardise with, where that would change nothing."""
        if self.reward_mean is not None or self.reward_std is not None:
            raise ConfigError(
                "bad-setting",
                "reward_mean and reward_std have no use here: a quantile is the same before and after standardising",
                kept="nothing was started",
                next="leave them out, or give --threshold-kind absolute",
            )
