"""Iterations whose improve step is preference optimization: pairs out of samples, held against who gave these.

samples -> pairs -> reference log-probs, as columns -> training -> policy of the next iteration
"""

from __future__ import annotations

import luigi

from pipelines.cli.learning import MergedParameter
from pipelines.commands.algorithm_kinds import LearnsPreferences
from pipelines.commands.iterations import SampledIteration
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.stages.iteration import Grown
from pipelines.stages.preference_rows import learnt_rows
from trainers.registry import algorithm_of

_LEARNING = {
    "epochs": 2,
    "global_batch_size": 32,
    "optim": {"lr": 1e-4, "warmup_steps": 5, "schedule": "cosine", "min_lr": 1e-5},
}
"""For the small policies that setups train from scratch; a large one wants a rate of about 5e-7."""


class PreferenceIteration(LearnsPreferences, SampledIteration):
    """An iteration that makes pairs, and a policy that prefers the chosen answers by more than the one before did."""

    algorithm = luigi.Parameter(default="dpo", description="algorithm over pairs, or over answers one by one")
    learning = MergedParameter(default=_LEARNING, description="learning (trainers.config), over the defaults")

    def improve(self, plan: Plan, grown: Grown, step: int, rows: Node, policy: Node) -> Node:
        """`policy` is where training starts and what it is held against."""
        label, eval_setup = f"{grown.label}/step={step}", grown.task_setup.eval_setup
        training, algorithm = self.training_for(label), algorithm_of(self.algorithm)
        precision, reading = training.learning.precision, eval_setup.scoring
        read = learnt_rows(plan, f"{label}/read", algorithm, rows, policy, reading, grown.seed, precision=precision)
        return plan.model(f"{label}/policy", training, data=read, tokenizer=eval_setup.tokenizer, init=policy)
