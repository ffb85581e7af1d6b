"""Reinforced Self-Training: grow a dataset from the policy, improve the policy on what is good enough, again and again.

One Grow step (samples of this iteration's prompts, scored) and `thresholds` Improve steps: each trains the policy of
the step before on the samples whose reward is above its threshold, with rising thresholds, blended with original data.
In the paper the original data is scored and filtered like the samples (`score_original`), and every Improve step learns
more slowly (`lr_decay`); samples of earlier Grow steps can be filtered again (`earlier`).
Thresholds are quantiles of the iteration's rewards, or absolute numbers that standardised rewards are compared with.
Where rewards are so tied that none lies above a quantile, as when all answers are right, the rows at it are kept.
NeMo-Aligner's ReST is one step over standardised rewards above 0, on the prompts in their order (`prompt_order`).
Gulcehre et al., "Reinforced Self-Training (ReST) for Language Modeling" (2023, arXiv:2308.08998).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import luigi

from datakit.filter import Threshold
from datakit.label import Standardize
from pipelines.cli.parameters import ListParameter, Number, OptionalNumber, Whole
from pipelines.commands.iterations import AlignmentIteration
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.stages.iteration import Grown, TaskSetup, joined_rows, scored
from schemas.errors import ConfigError, printable
from trainers.config import merged


class RestIteration(AlignmentIteration):
    """Iteration `iteration` of ReST; it requires all iterations before it, down to the setup's first policy."""

    title = "rest"

    thresholds = ListParameter(default=(0.4, 0.6), description="one improve step each; rising")
    threshold_kind = luigi.ChoiceParameter(
        default="quantile", choices=["absolute", "quantile"], description="what thresholds are"
    )
    reward_mean = OptionalNumber(description="mean to standardise with; empty: measured")
    reward_std = OptionalNumber(description="standard deviation to standardise with; empty: measured")
    score_original = luigi.BoolParameter(
        description="score the original data and filter it like the samples, as the paper does; original_share of it "
        "is blended in besides"
    )
    earlier = Whole(least=0, default=0, description="iterations before this one whose samples are filtered again")
    lr_decay = Number(
        default=1.0, least=0, most=1, description="the rate of an improve step, as a share of that of the step before"
    )

    def keep(self, plan: Plan, grown: Grown) -> list[Node]:
        """What thresholds leave of the samples, and of whatever is mixed into them."""
        mixed = {"grown": grown.scored}
        for one in grown.latest(self.earlier):
            assert one.rewards is not None
            mixed[f"iter={one.number}"] = one.rewards
        if self.score_original:
            mixed["original"] = self._scored_original(plan, grown.task_setup)
        return self._above(plan, grown.label, joined_rows(plan, f"{grown.label}/mixed", mixed, grown.seed))

    def learning(self, task_setup: TaskSetup, step: int) -> Mapping[str, Any]:
        """Those of the setup, with rates that fall from step to step."""
        optim, share = task_setup.learning["optim"], self.lr_decay ** (step - 1)
        if share == 1:
            return task_setup.learning
        rates = {name: optim[name] * share for name in ("lr", "min_lr") if name in optim}
        return merged(task_setup.learning, {"optim": rates})

    def _scored_original(self, plan: Plan, task_setup: TaskSetup) -> Node:
        label, original = f"{task_setup.eval_setup.name}/original.rewards", self.original(task_setup, "to score")
        return scored(plan, label, task_setup.eval_setup, task_setup.scorer, original)

    def _above(self, plan: Plan, label: str, rewards: Node) -> list[Node]:
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
                next="--threshold-kind absolute",
            )
