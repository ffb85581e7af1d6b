"""Task sources: where an iteration gets prompts, original data, tokenizer, first policy and reward model from.

A source is a section of the configuration; `source = digits` in a recipe's section names it. The
embedded default is made of the same nodes as everything else.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import luigi

from datakit.blend import Pair, Split
from datakit.clients import Sampling
from datakit.generate import Complete
from datakit.io import Reversal
from datakit.label import Verify
from datakit.template import RewardPrompt
from datakit.tokenize import Encode
from datakit.tokenize import Train as TrainTokenizer
from pipelines.iteration import PROMPTS_PER_SHARD, Ground, Source, prompted, tokenized
from pipelines.learning import run_of
from pipelines.plan import Node, Plan
from pipelines.settings import configured
from schemas.errors import ConfigError, printable
from schemas.settings import suggestion

_PAIR_COLUMNS = (("chosen_pieces", "chosen_ids"), ("rejected_pieces", "rejected_ids"))


class TaskSource(luigi.Config):
    """A section that can say what an iteration stands on."""

    @abstractmethod
    def source(self, plan: Plan, seed: int) -> Source:
        """What an iteration stands on, as nodes of `plan`."""


class digits(TaskSource):
    """The embedded default: reverse the digits of a number, learnt from demonstrations of which a share is wrong."""

    digits = luigi.IntParameter(description="digits of a number")
    demonstrations = luigi.IntParameter(description="answers the first policy learns from")
    wrong_share = luigi.FloatParameter(description="share of the demonstrations that is wrong")
    prompts = luigi.IntParameter(description="prompts of all iterations together")
    held_out = luigi.IntParameter(description="prompts that no training row holds")
    pair_prompts = luigi.IntParameter(description="prompts whose verified samples give preference pairs")
    pair_samples = luigi.IntParameter(description="samples for each of them")
    pairs_per_prompt = luigi.IntParameter(description="pairs of a right and a wrong answer for each of them, at most")
    vocabulary = luigi.IntParameter(description="size of the tokenizer that is trained")
    max_length = luigi.IntParameter(description="tokens of question and answer together")
    model = luigi.DictParameter(description="shape of the network (trainers.config.Model)")
    base = luigi.DictParameter(description="learning of the first policy (trainers.config.Run)")
    reward = luigi.DictParameter(description="learning of the reward model")
    improve = luigi.DictParameter(description="learning of an improve step")

    def source(self, plan: Plan, seed: int) -> Source:
        """Demonstrations, tokenizer, first policy, its verified samples, preference pairs, reward model."""
        rows = self._rows(plan, seed)
        demonstrations = rows["demonstrations"]
        tokenizer = plan.table("digits/tokenizer", TrainTokenizer(vocab_size=self.vocabulary), demonstrations)
        tokens = tokenized(plan, "digits/demonstration", tokenizer, demonstrations, self.max_length)
        shape = {"max_sequence_length": self.max_length, **self.model}
        run = run_of("sft", self.base, seed=seed, model=shape, where="[digits] base")
        policy = plan.model("digits/policy", run, data=tokens, tokenizer=tokenizer)
        ground = Ground(
            name="digits",
            held_out=rows["held_out"],
            tokenizer=tokenizer,
            reward_model=None,
            verifier=Verify(kind="text", strict=True),
            max_new_tokens=self.digits + 3,
            max_length=self.max_length,
        )
        pairs = self._pairs(plan, rows["pair_prompts"], policy, ground, seed)
        model = reward_model(plan, "digits", pairs, policy, ground, self.reward, seed)
        return Source(
            ground=replace(ground, reward_model=model),
            prompts=rows["prompts"],
            original=demonstrations,
            policy=policy,
            reward_model=model,
            learning=self.improve,
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

    def _pairs(self, plan: Plan, prompts: Node, policy: Node, ground: Ground, seed: int) -> Node:
        """Preferences: of the policy's own answers to a question, a right one and a wrong one."""
        sampling = Sampling(samples_per_prompt=self.pair_samples, max_new_tokens=ground.max_new_tokens)
        tokens = prompted(plan, "digits/pair-prompts", ground.tokenizer, prompts, ground.room)
        samples = plan.table("digits/pair-samples", Complete(sampling=sampling), tokens, generator=policy, seed=seed)
        assert ground.verifier is not None
        verified = plan.table("digits/pair-verified", ground.verifier, samples)
        rule = Pair(rule="right_vs_wrong", column="correct", max_pairs=self.pairs_per_prompt)
        return plan.table("digits/pairs", rule, verified, seed=seed)


def reward_model(
    plan: Plan, label: str, pairs: Node, policy: Node, ground: Ground, learning: Mapping[str, Any], seed: int
) -> Node:
    """A Bradley-Terry reward model on nine tenths of the prompts of `pairs`, validated on the others."""
    told = plan.table(f"{label}/pair-texts", RewardPrompt(rows="preferences"), pairs, tokenizer=ground.tokenizer)
    encode = Encode(columns=_PAIR_COLUMNS, max_length=ground.max_length)
    tokens = plan.table(f"{label}/pair-tokens", encode, told, tokenizer=ground.tokenizer)
    train, held_out = (
        plan.table(f"{label}/pairs-{part}", Split(part=part, parts=("train", "held-out"), shares=(0.9, 0.1)), tokens, seed=seed)
        for part in ("train", "held-out")
    )
    run = run_of("rm", learning, seed=seed, where=f"reward model of {label}")
    return plan.model(
        f"{label}/reward-model", run, data=train, tokenizer=ground.tokenizer, init=policy, validation=held_out
    )


SOURCES: Mapping[str, type[TaskSource]] = {kind.__name__: kind for kind in (digits,)}
"""Sources by name."""


def source_of(name: str) -> TaskSource:
    """The source of that name, configured; `ConfigError` if there is none."""
    if name not in SOURCES:
        raise ConfigError(
            "unknown-source",
            f"there is no source {printable(name)}{suggestion(name, list(SOURCES))}",
            expected=", ".join(SOURCES),
            kept="nothing was started",
        )
    return configured(SOURCES[name])
