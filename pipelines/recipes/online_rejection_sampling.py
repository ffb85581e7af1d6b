"""Online rejection sampling: the best answers of a policy to each prompt, as it stands at every step, are learnt next.

    prompts of a step -> answers of the policy as it stands -> rewards -> the best of every prompt -> sft -> next step

Best-of-n as in Dong et al., "RAFT" (2023, arXiv:2304.06767), a step at a time. Of equals the first by sample index is
kept; answers that are all rewarded alike leave one nevertheless, unless `above` asks for a reward.
"""

from __future__ import annotations

import luigi

from datakit.filter import BestOf, Where
from datakit.op import Op
from datakit.tokenize import Drawn
from pipelines.cli.parameters import OptionalNumber, Whole
from pipelines.commands.algorithm_kinds import LearnsAnswers
from pipelines.commands.online import OnlineRecipe, learning_over
from pipelines.online.arrangement import Arrangement


class OnlineRejectionSampling(LearnsAnswers, OnlineRecipe):
    """A policy that learns the best of its own answers, step by step."""

    title = "online-rejection-sampling"

    algorithm = luigi.Parameter(default="sft", description="algorithm over answers one by one")
    learning = learning_over()
    best = Whole(default=1, description="answers learnt of every prompt, at most")
    above = OptionalNumber(description="reward that an answer must exceed to be learnt; empty: any")

    @property
    def arrangement(self) -> Arrangement:
        """The best of the answers to a prompt."""
        good: tuple[Op, ...] = () if self.above is None else (Where(predicate=f"reward > {self.above!r}"),)
        return Arrangement(rows=(*good, BestOf(k=self.best), Drawn()), per_prompt=self.best)
