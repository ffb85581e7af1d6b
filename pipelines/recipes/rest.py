"""Reinforced Self-Training: grow a dataset from the policy, improve the policy on what is good enough, again and again.

One Grow step (samples of this iteration's prompts, scored and standardised) and `thresholds` Improve steps: each
trains the policy of the step before on the samples whose reward is above its threshold, with rising thresholds,
blended with original data. Gulcehre et al., "Reinforced Self-Training (ReST) for Language Modeling" (2023,
arXiv:2308.08998).
"""

from __future__ import annotations

from typing import Any

import luigi

from datakit.filter import Threshold
from datakit.label import Standardize
from pipelines.commands.iterations import AlignmentIteration
from pipelines.graph.nodes import Node
from pipelines.graph.plan import Plan
from pipelines.runtime.parameters import ListParameter, OptionalNumber
from schemas.errors import ConfigError, printable


class RestIteration(AlignmentIteration):
    """Iteration `iteration` of ReST; it requires all iterations before it, down to the source's first policy."""

    title = "rest"

    thresholds = ListParameter(description="one improve step each; rising")
    threshold_kind = luigi.ChoiceParameter(choices=["absolute", "quantile"], description="what thresholds are")
    reward_mean = OptionalNumber(description="mean to standardise with; empty: measured")
    reward_std = OptionalNumber(description="standard deviation to standardise with; empty: measured")

    def keep(self, plan: Plan, label: str, rewards: Node) -> list[Node]:
        """Standardise, then one filter for each threshold."""
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
        standard = Standardize(mean=self.reward_mean, std=self.reward_std, output="score")
        scores = plan.table(f"{label}/scores", standard, rewards)
        bound = "minimum" if self.threshold_kind == "absolute" else "minimum_quantile"
        keeps: list[dict[str, Any]] = [{"column": "score", bound: threshold} for threshold in steps]
        return [plan.table(f"{label}/step={n}/kept", Threshold(**keep), scores) for n, keep in enumerate(keeps, 1)]
