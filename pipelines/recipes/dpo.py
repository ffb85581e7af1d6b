"""DPO in rounds: the policy's own answers, scored, become pairs that it learns from; the next round samples anew.

    prompts of this round -> samples -> rewards -> pairs -> reference log-probs -> dpo -> policy -> evaluation

Every round samples from the policy that the round before made, and holds it against that one: on-policy pairs as in
Xu et al., "Some things are more cringe than others" (2023, arXiv:2312.16682), Yuan et al., "Self-Rewarding Language
Models" (2024, arXiv:2401.10020), and Dong et al., "RLHF Workflow" (2024, arXiv:2405.07863). Pairs are `blend.pair`'s:
the best against the worst answer of every prompt unless a flag says otherwise.
"""

from __future__ import annotations

from typing import Any

import luigi

from datakit.blend import Pair
from pipelines.cli.parameters import Number, OptionalNumber, Whole
from pipelines.commands.preference_iterations import PreferenceIteration
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.stages.iteration import Grown


class DpoIteration(PreferenceIteration):
    """Iteration `iteration` of preference optimization in rounds; it requires all iterations before it."""

    title = "dpo-rounds"

    pairs = luigi.ChoiceParameter(
        default="best_vs_worst",
        choices=["best_vs_worst", "best_vs_random", "all_pairs"],
        description="answers that are paired; of more than max_pairs those that the rule ranks first, or by lot",
    )
    max_pairs = Whole(default=1, description="pairs of a prompt, at most")
    margin = Number(default=0.0, least=0, description="distance in reward that a pair must exceed")
    max_length_ratio = OptionalNumber(
        least=1, description="characters of a pair's longer answer to those of the other, at most; empty: any"
    )

    def keep(self, plan: Plan, grown: Grown) -> list[Node]:
        """Pairs of this iteration's samples."""
        rule: Any = self.pairs
        pair = Pair(rule=rule, max_pairs=self.max_pairs, margin=self.margin, max_length_ratio=self.max_length_ratio)
        return [plan.table(f"{grown.label}/step=1/kept", pair, grown.scored, seed=grown.seed)]
