"""REINFORCE with a leave-one-out baseline: an answer is worth its reward less the mean of the others to its prompt.

    prompts of a step -> answers of the policy as it stands -> rewards
        -> advantage = reward - mean reward of the other answers -> policy gradient -> next step

Kool et al. (2019); Ahmadian et al., "Back to Basics: Revisiting REINFORCE-Style Optimization for Learning from Human
Feedback in LLMs" (2024, arXiv:2402.14740). The estimate has no bias; it is scaled as rewards are.
"""

from __future__ import annotations

import luigi

from datakit.label import Rloo
from datakit.tokenize import Drawn
from pipelines.commands.online import OnlineRecipe, learning_over
from pipelines.online.arrangement import Arrangement


class Reinforce(OnlineRecipe):
    """A policy that learns from its own answers against each other, step by step."""

    title = "reinforce"

    algorithm = luigi.Parameter(default="policy_gradient", description="algorithm over token rows with advantages")
    learning = learning_over()

    @property
    def arrangement(self) -> Arrangement:
        """Every answer against the others to its prompt."""
        return Arrangement(rows=(Drawn(), Rloo()))
