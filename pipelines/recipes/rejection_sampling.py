"""Rejection sampling: the best of n answers to every prompt, by reward, are what the policy is trained on next.

NeMo-Aligner ran it offline (sampler, labeler with processor rs, SFT on the winners) as a shell loop of 20 iterations.
"""

from __future__ import annotations

from datakit.filter import BestOf
from pipelines.cli.parameters import Whole
from pipelines.commands.iterations import AlignmentIteration
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.stages.iteration import Grown


class RejectionSamplingIteration(AlignmentIteration):
    """Iteration `iteration` of rejection sampling; it requires all iterations before it."""

    title = "rejection-sampling"

    best = Whole(default=1, description="answers kept of every prompt")

    def keep(self, plan: Plan, grown: Grown) -> list[Node]:
        """The best answers of every prompt."""
        return [plan.table(f"{grown.label}/step=1/kept", BestOf(k=self.best), grown.scored)]
