"""Preference optimization: a policy is trained on pairs, held against the log-probs that it gave them before.

The setup's first policy says once what it thinks of both answers of every pair (`label.logprobs`, per row); those are
the reference columns of the algorithm, so the trainer has one network. Rafailov et al., "Direct Preference
Optimization" (2023, arXiv:2305.18290). An algorithm that reads wanted and unwanted answers one by one (`--algorithm
kto`) gets the pairs taken apart. The held-out pairs are read by the policy before and after.
"""

from __future__ import annotations

from collections.abc import Sequence

import luigi

from datakit.sql import Query
from pipelines.commands.learning import ByAlgorithm
from pipelines.commands.recipe import SetupRecipe
from pipelines.graph.plan import Plan
from pipelines.graph.results import Results
from pipelines.report.figures import Figure, FigureTable, metrics
from pipelines.runtime.parameters import MergedParameter, RenamedParameter
from pipelines.stages.ask import ask, asked
from pipelines.stages.measure import Measure
from pipelines.stages.preferred import is_of_pairs, learnt_rows, of_pairs
from schemas.errors import ConfigError
from trainers.registry import algorithm_of

_ORDER = """
SELECT pair_id,
  CAST(ref_logprob_chosen > ref_logprob_rejected AS DOUBLE) AS before,
  CAST(policy_logprob_chosen > policy_logprob_rejected AS DOUBLE) AS after,
  CAST(policy_logprob_chosen - ref_logprob_chosen > policy_logprob_rejected - ref_logprob_rejected AS DOUBLE)
    AS implicit_reward
FROM pairs ORDER BY pair_id
"""

_LEARNING = {
    "epochs": 4,
    "global_batch_size": 32,
    "optim": {"lr": 3e-4, "warmup_steps": 5, "schedule": "cosine", "min_lr": 3e-5},
}
"""For the small policies that setups train from scratch; a large one wants a rate of about 5e-7."""

_COLUMNS = (
    Figure("pairs", ",.0f", meaning="held-out pairs"),
    Figure("chosen likelier before", ".1%", meaning="pairs whose chosen answer the first policy finds likelier"),
    Figure("after", ".1%", meaning="the same by the trained policy"),
    Figure("by implicit reward", ".1%", meaning="pairs whose chosen answer gained more by training than the other"),
)


class PreferenceOptimization(ByAlgorithm, SetupRecipe[Results]):
    """A policy that prefers the chosen answers of pairs.

    How often it does is measured on held-out pairs, before and after.
    """

    training = "learning"

    setup = RenamedParameter(
        older="source", default="preferences", description="task setup of the pairs and of the policy"
    )
    algorithm = luigi.Parameter(default="dpo", description="algorithm over pairs, or over answers one by one")
    learning = MergedParameter(default=_LEARNING, description="learning (trainers.config), over the defaults")

    def results(self, plan: Plan) -> Results:
        """Pairs with reference log-probs, the policy, the held-out pairs as it reads them, and figures."""
        task = self.task_setup(plan)
        if task.pairs is None:
            raise ConfigError(
                "no-pairs",
                f"the setup {self.setup} has no preference pairs",
                expected="a setup such as preferences",
                kept="nothing was started",
                next="--setup preferences",
            )
        label, tokenizer = f"{self.algorithm}/{self.folder(task.eval_setup.name)}", task.eval_setup.tokenizer
        algorithm, reading = algorithm_of(self.algorithm), task.eval_setup.scoring
        held_out = ask(plan, f"{label}/pairs-held-out", of_pairs("ref"), task.pairs[1], task.policy, reading=reading)
        kind = "pairs" if is_of_pairs(algorithm) else "feedback"
        train, validation = (
            learnt_rows(plan, f"{label}/{kind}-{part}", algorithm, rows, task.policy, reading, self.settled_seed)
            for part, rows in zip(("train", "held-out"), task.pairs, strict=True)
        )
        training = self.training_for(label)
        policy = plan.model(
            f"{label}/policy", training, data=train, tokenizer=tokenizer, init=task.policy, validation=validation
        )
        read = asked(plan, f"{label}/held-out-read", of_pairs("policy"), held_out, policy)
        order = plan.table(f"{label}/held-out-order", Query(query=_ORDER, tables=("pairs",), key=("pair_id",)), read)
        columns = ("before", "after", "implicit_reward")
        evaluation = plan.table(f"{label}/evaluation", Measure(stage=label, columns=columns), order)
        return Results(
            targets=(policy, evaluation),
            datasets={kind: train, "held_out": held_out, "read": read, "order": order},
            checkpoints={"policy": policy, "first": task.policy},
            figures={"evaluation": evaluation},
        )

    def report(self) -> Sequence[FigureTable]:
        """How many held-out pairs stand in the right order."""
        figures = metrics(self.graph.figures["evaluation"])
        row = (figures["before.count"], *(figures[f"{name}.mean"] for name in ("before", "after", "implicit_reward")))
        return [FigureTable(f"{self.task_family}: held-out pairs in the right order", _COLUMNS, (row,))]
