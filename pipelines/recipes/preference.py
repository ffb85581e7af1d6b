"""Preference optimization: a policy is trained on pairs, held against the log-probs that it gave them before.

The setup's first policy says once what it thinks of both answers of every pair (`label.logprobs`, per row); those are
the reference columns of the algorithm, so the trainer has one network. Rafailov et al., "Direct Preference
Optimization" (2023, arXiv:2305.18290). The held-out pairs are read by the policy before and after.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import luigi
from luigi.freezing import recursively_unfreeze

from datakit.label import Logprobs
from datakit.sql import Query
from datakit.template import RewardPrompt
from datakit.tokenize import Sequences
from pipelines.commands.command import Command
from pipelines.commands.templated import Templated
from pipelines.graph.learning import merged, run_of
from pipelines.graph.nodes import Node
from pipelines.graph.plan import Plan
from pipelines.runtime import settings
from pipelines.runtime.parameters import (
    AssignmentsParameter,
    MergedParameter,
    ObjectParameter,
    OptionalWhole,
    assigned_to,
)
from pipelines.setups import source_kind, source_of
from pipelines.stages.iteration import EvalSetup
from pipelines.stages.measure import Measure
from schemas.dataset import Dataset
from schemas.errors import ConfigError

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


class PreferenceOptimization(Templated, Command):
    """A policy that prefers the chosen answers of a setup's pairs, and how often it does before and after."""

    source = luigi.Parameter(default="preferences", description="task source of the pairs and of the policy")
    algorithm = luigi.Parameter(default="dpo", description="algorithm over pairs with reference log-probs")
    options = ObjectParameter(default={"beta": 0.1}, description="settings of the algorithm, as JSON")
    learning = MergedParameter(default=_LEARNING, description="learning (trainers.config.Run), over the defaults")
    set = AssignmentsParameter(
        default=(),
        description="a setting of it as key=value (optim.lr=1e-4), or of a training of the source (base.epochs=2); may "
        "be repeated",
    )
    seed = OptionalWhole(least=0, default=None, description="of everything; empty: that of [quiver]")

    @functools.cached_property
    def graph(self) -> tuple[Node, Node]:
        """The policy and its figures."""
        config = settings.quiver_config()
        plan, seed = Plan(config.root), config.seed if self.seed is None else self.seed
        changes = assigned_to(self.set, "learning", source_kind(self.source), PreferenceOptimization)
        learning = merged({"settings": recursively_unfreeze(self.options)}, recursively_unfreeze(self.learning))
        learning = merged(learning, changes.pop("learning", {}))
        task = source_of(self.source, changes).source(plan, seed, self.rendering)
        if task.pairs is None:
            raise ConfigError(
                "no-pairs",
                f"the source {self.source} has no preference pairs",
                expected="a source such as preferences",
                kept="nothing was started",
                next="--source preferences",
            )
        label = f"{self.algorithm}/{task.eval_setup.name}"
        train, held_out = (
            self._referred(plan, f"{label}/pairs-{part}", task.eval_setup, task.policy, rows)
            for part, rows in zip(("train", "held-out"), task.pairs, strict=True)
        )
        run = run_of(self.algorithm, learning, seed=seed, where=f"learning of {label}")
        policy = plan.model(
            f"{label}/policy",
            run,
            data=train,
            tokenizer=task.eval_setup.tokenizer,
            init=task.policy,
            validation=held_out,
        )
        asked = plan.table(f"{label}/held-out-read", _read_by("policy"), held_out, model=policy)
        order = plan.table(f"{label}/held-out-order", Query(query=_ORDER, tables=("pairs",), key=("pair_id",)), asked)
        columns = ("before", "after", "implicit_reward")
        return policy, plan.table(f"{label}/evaluation", Measure(stage=label, columns=columns), order)

    def _referred(self, plan: Plan, label: str, eval_setup: EvalSetup, policy: Node, pairs: Node) -> Node:
        """PAIRS with the log-probs that `policy` gives both answers."""
        write = RewardPrompt(**eval_setup.rendering.settings, rows="preferences")
        texts = plan.table(f"{label}-texts", write, pairs, tokenizer=eval_setup.tokenizer)
        tokens = plan.table(
            f"{label}-tokens", Sequences(max_length=eval_setup.max_length), texts, tokenizer=eval_setup.tokenizer
        )
        return plan.table(label, _read_by("ref"), tokens, model=policy)

    def build(self, plan: Plan) -> Sequence[Node]:
        """The policy and its figures."""
        return self.graph

    def after(self) -> None:
        """How many held-out pairs stand in the right order, and where the results lie."""
        rows = Dataset.open(self.graph[1].url).read(columns=["metric", "value"]).to_pylist()
        figures = {row["metric"]: row["value"] for row in rows}
        print(f"\nheld-out pairs whose chosen answer is likelier: {figures['before.mean']:.1%} of ", end="")
        print(f"{figures['before.count']:,.0f} before, {figures['after.mean']:.1%} after")
        print(f"held-out pairs in the order of the implicit reward: {figures['implicit_reward.mean']:.1%}\n")
        super().after()


def _read_by(who: str) -> Logprobs:
    columns = tuple((f"{side}_ids", f"{side}_mask", f"{who}_logprob_{side}") for side in ("chosen", "rejected"))
    return Logprobs(columns=columns, per="row")
