"""Preference optimization: a policy is trained on pairs, held against the log-probs that it gave them before.

The setup's first policy says once what it thinks of both answers of every pair (`label.logprobs`, per row); those are
the reference columns of the algorithm, so the trainer has one network. Rafailov et al., "Direct Preference
Optimization" (2023, arXiv:2305.18290). An algorithm that reads wanted and unwanted answers one by one (`--algorithm
kto`) gets the pairs taken apart. The held-out pairs are read by the policy before and after.
"""

from __future__ import annotations

from collections.abc import Sequence

import luigi

from pipelines.cli.learning import MergedParameter
from pipelines.cli.parameters import RenamedParameter
from pipelines.commands.algorithm_kinds import LearnsPreferences
from pipelines.commands.recipe import SetupRecipe
from pipelines.graph.plan import Plan
from pipelines.graph.results import Results
from pipelines.report.figures import FigureTable
from pipelines.report.pairs import preference_table
from pipelines.stages.iteration import TaskSetup
from pipelines.stages.preference_training import trained_on_pairs
from schemas.errors import ConfigError

_LEARNING = {
    "epochs": 4,
    "global_batch_size": 32,
    "optim": {"lr": 3e-4, "warmup_steps": 5, "schedule": "cosine", "min_lr": 3e-5},
}
"""For the small policies that setups train from scratch; a large one wants a rate of about 5e-7."""


class PreferenceOptimization(LearnsPreferences, SetupRecipe[Results]):
    """A policy that prefers the chosen answers of pairs.

    How often it does is measured on held-out pairs, before and after.
    """

    asks = ()

    setup = RenamedParameter(
        older="source", default="preferences", description="task setup of the pairs and of the policy"
    )
    algorithm = luigi.Parameter(default="dpo", description="algorithm over pairs, or over answers one by one")
    learning = MergedParameter(default=_LEARNING, description="learning (trainers.config), over the defaults")

    def results_of(self, plan: Plan, task_setup: TaskSetup) -> Results:
        """Pairs with reference log-probs, the policy, the held-out pairs as it reads them, and figures."""
        if task_setup.pairs is None:
            raise ConfigError(
                "no-pairs",
                f"the setup {self.setup} has no preference pairs",
                expected="a setup such as preferences",
                kept="nothing was started",
                next="--setup preferences",
            )
        eval_setup, seed = task_setup.eval_setup, self.settled_seed
        label = f"{self.algorithm}/{self.folder(eval_setup.name)}"
        training, policy = self.training_for(label), task_setup.policy
        tokenizer, reading = eval_setup.tokenizer, eval_setup.scoring
        return trained_on_pairs(plan, label, training, task_setup.pairs, policy, tokenizer, reading, seed)

    def report(self) -> Sequence[FigureTable]:
        """How many held-out pairs stand in the right order, and the rewards."""
        return [preference_table(self.task_family, self.graph)]
