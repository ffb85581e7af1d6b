"""Online DPO: the better and the worse of a policy's own answers, as it stands at every step, are what it learns from.

    prompts of a step -> answers of the policy as it stands -> rewards -> pairs of their tokens
        -> log-probs by the first policy, as columns -> dpo -> next step

Guo et al., "Direct Language Model Alignment from Online AI Feedback" (2024, arXiv:2402.04792), with the reference of
Rafailov et al. (2023): the policy that the run began with. A tie never pairs: of answers that are rewarded alike, or
within `margin` of each other, neither is better, and a prompt that has no other answers teaches nothing at this step.
"""

from __future__ import annotations

from typing import Any

import luigi

from datakit.blend import Pair
from datakit.filter import NotNull
from datakit.tokenize import Drawn
from pipelines.cli.parameters import Number, Whole
from pipelines.commands.online import OnlineRecipe, learning_over
from pipelines.online.arrangement import Arrangement
from pipelines.stages.preference_rows import is_of_pairs, learns_preferences
from trainers.algorithm import Algorithm

_TOKENS = (("input_ids", "ids"), ("loss_mask", "mask"))


def _learns_pairs(algorithm: Algorithm) -> bool:
    return is_of_pairs(algorithm) and learns_preferences(algorithm)


class OnlineDpo(OnlineRecipe):
    """A policy that learns from pairs of its own answers, step by step."""

    title = "online-dpo"
    fits = staticmethod(_learns_pairs)
    unfit = "learns from no pairs of answers"
    fitting = "an algorithm over both answers of a pair"

    algorithm = luigi.Parameter(default="dpo", description="algorithm over both answers of a pair")
    learning = learning_over(optim={"lr": 2e-4, "warmup_steps": 5, "schedule": "linear", "min_lr": 2e-5})
    pairs = luigi.ChoiceParameter(
        default="best_vs_worst",
        choices=["best_vs_worst", "best_vs_random", "all_pairs"],
        description="answers that are paired (blend.pair); of more than max_pairs those that the rule ranks first, or "
        "by lot",
    )
    max_pairs = Whole(default=1, description="pairs of a prompt, at most")
    margin = Number(default=0.0, least=0, description="distance in reward that a pair must exceed; ties never pair")

    @property
    def arrangement(self) -> Arrangement:
        """Pairs of the tokens that were drawn."""
        rule: Any = self.pairs
        pair = Pair(rule=rule, max_pairs=self.max_pairs, margin=self.margin, beside=_TOKENS)
        rewarded = NotNull(columns=("chosen_reward", "rejected_reward"))
        return Arrangement(rows=(Drawn(), pair, rewarded), per_prompt=self.max_pairs)
