"""Self-play fine-tuning: a policy learns to tell the answers that it was taught from those that it gives itself.

    SFT prompts -> answers of the opponent (the policy of the iteration before)
                -> pairs: chosen = SFT answer, rejected = the opponent's -> dpo, held against the opponent -> policy

No preferences and no rewards are needed, only the original data that the first policy learnt. Chen et al., "Self-Play
Fine-Tuning Converts Weak Language Models to Strong Language Models" (2024, arXiv:2401.01335): the same prompts in every
iteration, and from the second on the pairs of the iteration before are learnt again (`earlier`; NeMo-Aligner does not).
The aim is the distribution of the original data: a policy that answers like it already learns nothing more.
"""

from __future__ import annotations

import luigi

from datakit.blend import PairAnswer
from datakit.sql import Query
from pipelines.cli.parameters import Whole
from pipelines.commands.preference_iterations import PreferenceIteration
from pipelines.graph.node import Node, rows_of
from pipelines.graph.plan import Plan
from pipelines.stages.iteration import PROMPTS_PER_SHARD, Grown, TaskSetup, drawn_prompts, joined_rows, next_prompts

_PROMPTS = """
SELECT sample_id AS prompt_id, messages, tools, response AS answer, source FROM answers ORDER BY prompt_id
"""
"""A row of the original data is a prompt of its own, so that two answers to one question stay two."""
_DRAWN = """
SELECT sample_id AS prompt_id, messages, tools, response AS answer, {drawn} AS answer_sample_id,
  finish_reason AS answer_finish_reason, source FROM answers ORDER BY prompt_id
"""
"""The same of data that a policy drew: answers keep their ends, and stay those samples."""


class SpinIteration(PreferenceIteration):
    """Iteration `iteration` of self-play; it requires all iterations before it."""

    title, scores, asks = "spin", False, ("original",)

    algorithm = luigi.Parameter(default="spin", description="algorithm over pairs; spin is dpo with the paper's beta")
    prompts_per_iteration = Whole(
        least=0, default=1024, description="prompts of the original data, the same in every iteration; 0: all"
    )
    samples_per_prompt = Whole(default=1, description="answers of the opponent to each prompt")
    earlier = Whole(least=0, default=1, description="iterations before this one whose pairs are learnt again")

    def prompts(self, plan: Plan, label: str, task_setup: TaskSetup, number: int) -> Node:
        """Of the original data, the same whatever `number` is; `ConfigError` where there is none."""
        original = self.original(task_setup, "whose answers self-play could learn")
        below = f"{task_setup.eval_setup.name}/original"
        there = rows_of(original)
        drawn = _DRAWN.format(drawn="drawn_sample_id" if "drawn_sample_id" in there else "sample_id")
        text = drawn if "finish_reason" in there else _PROMPTS
        query = Query(query=text, tables=("answers",), kind="prompts", key=("prompt_id",))
        rows = plan.table(f"{below}.prompts", query, original, rows_per_shard=PROMPTS_PER_SHARD)
        if not self.prompts_per_iteration:
            return rows
        if self.prompt_order == "rows":
            return next_prompts(plan, below, rows, self.prompts_per_iteration, 1)
        return drawn_prompts(plan, below, rows, self.prompts_per_iteration, 1, self.settled_seed)

    @property
    def fresh_prompts(self) -> int:
        """None: those of the original data are asked again."""
        return 0

    def keep(self, plan: Plan, grown: Grown) -> list[Node]:
        """The original answers against the opponent's; where both are the same there is nothing to tell apart."""
        return [plan.table(f"{grown.label}/step=1/kept", PairAnswer(), grown.samples)]

    def improve(self, plan: Plan, grown: Grown, step: int, rows: Node, policy: Node) -> Node:
        """On these pairs, and those of `earlier` iterations."""
        pairs = {"now": rows, **{f"iter={one.number}": one.kept[0] for one in grown.latest(self.earlier)}}
        rows = joined_rows(plan, f"{grown.label}/step={step}/mixed", pairs, grown.seed)
        return super().improve(plan, grown, step, rows, policy)
