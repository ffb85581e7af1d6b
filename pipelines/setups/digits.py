"""The embedded default: a task that checks itself, made from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from datakit.blend import Pair
from datakit.clients import Sampling
from datakit.generate import Complete
from datakit.io import Reversal
from datakit.label import Verify
from datakit.template import Rendering
from datakit.tokenize import Train as TrainTokenizer
from pipelines.cli.parameters import Number, Whole
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.setups.setup_config import (
    SetupConfig,
    first_policy,
    held_apart,
    learning_parameter,
    max_length,
    network,
    reward_model,
    vocabulary,
)
from pipelines.stages.ask import asked, readable
from pipelines.stages.iteration import PROMPTS_PER_SHARD, EvalSetup, TaskSetup


class digits(SetupConfig):
    """The embedded default: reverse the digits of a number, learnt from demonstrations of which a share is wrong."""

    digits = Whole(default=5, description="digits of a number")
    demonstrations = Whole(default=10_000, description="answers the first policy learns from")
    wrong_share = Number(default=0.4, least=0, most=1, description="share of the demonstrations that is wrong")
    prompts = Whole(default=20_000, description="prompts of all iterations together")
    held_out = Whole(default=1024, description="prompts that no training row holds")
    pair_prompts = Whole(default=3000, description="prompts whose verified samples give preference pairs")
    pair_samples = Whole(default=4, description="samples for each of them")
    pairs_per_prompt = Whole(default=3, description="pairs of a right and a wrong answer for each of them, at most")
    vocabulary = vocabulary(288)
    max_length = max_length(64)
    architecture = network(
        num_layers=4, hidden_size=128, ffn_hidden_size=256, num_attention_heads=4, num_query_groups=4
    )
    model = network()
    base = learning_parameter(
        "the first policy",
        epochs=6,
        global_batch_size=64,
        optim={"lr": 2e-3, "warmup_steps": 50, "schedule": "cosine", "min_lr": 1e-4},
    )
    reward = learning_parameter(
        "the reward model",
        epochs=3,
        global_batch_size=16,
        settings={"center": 0.02},
        optim={"lr": 7e-4, "warmup_steps": 100, "schedule": "cosine"},
    )
    improve = learning_parameter(
        "an improve step",
        epochs=1,
        global_batch_size=64,
        optim={"lr": 5e-4, "warmup_steps": 10, "schedule": "cosine", "min_lr": 5e-5},
    )

    def task_setup(self, plan: Plan, seed: int, rendering: Rendering, needed: Sequence[str] = ("reward",)) -> TaskSetup:
        """Demonstrations, tokenizer, first policy, its verified samples, preference pairs, reward model."""
        rows = self._rows(plan, seed)
        demonstrations = rows["demonstrations"]
        tokenizer = plan.table("digits/tokenizer", TrainTokenizer(vocab_size=self.vocabulary), demonstrations)
        policy = first_policy(plan, "digits", self, tokenizer, demonstrations, rendering, seed)
        eval_setup = EvalSetup(
            name="digits",
            held_out=rows["held_out"],
            tokenizer=tokenizer,
            reward_model=None,
            verifier=Verify(kind="text", strict=True),
            max_new_tokens=self.digits + 3,
            max_length=self.max_length,
            rendering=rendering,
        )
        pairs = self._pairs(plan, rows["pair_prompts"], policy, eval_setup, seed)
        model = reward_model(plan, "digits", pairs, policy, eval_setup, self.reward, seed)
        return TaskSetup(
            eval_setup=replace(eval_setup, reward_model=model),
            prompts=rows["prompts"],
            original=demonstrations,
            policy=policy,
            reward_model=model,
            learning=self.improve,
            trained={"base": policy, "architecture": policy, "model": policy, "reward": model},
        )

    def _rows(self, plan: Plan, seed: int) -> dict[str, Node]:
        """Prompts of each use; no number stands in two of them."""
        rows: dict[str, Node] = {}
        first = 0
        for name in ("demonstrations", "prompts", "held_out", "pair_prompts"):
            count = getattr(self, name)
            wrong: dict[str, Any] = {"wrong_share": self.wrong_share} if name == "demonstrations" else {}
            output: Any = "demonstrations" if name == "demonstrations" else "prompts"
            op = Reversal(rows=count, first=first, digits=self.digits, seed=seed, output=output, **wrong)
            rows[name] = plan.table(f"digits/{name.replace('_', '-')}", op, rows_per_shard=PROMPTS_PER_SHARD)
            first += count
        return rows

    def _pairs(self, plan: Plan, prompts: Node, policy: Node, eval_setup: EvalSetup, seed: int) -> tuple[Node, Node]:
        """Preferences: of the policy's own answers to a question, a right one and a wrong one; a tenth held out."""
        sampling = Sampling(
            samples_per_prompt=self.pair_samples,
            max_new_tokens=eval_setup.max_new_tokens,
            stop=eval_setup.rendering.stop,
        )
        complete = Complete(sampling=sampling)
        tokens = readable(plan, "digits/pair-prompts", complete, prompts, policy, eval_setup.asking)
        samples = asked(plan, "digits/pair-samples", complete, tokens, policy, seed=seed)
        assert eval_setup.verifier is not None
        verified = plan.table("digits/pair-verified", eval_setup.verifier, samples)
        rule = Pair(rule="right_vs_wrong", column="correct", max_pairs=self.pairs_per_prompt)
        pairs = plan.table("digits/pairs", rule, verified, seed=seed)
        return held_apart(plan, "digits/pairs.", pairs, 0.1, seed)
