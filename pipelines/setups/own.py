"""Your own model, prompts and reward: nothing is trained before the first iteration."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import luigi
from luigi.freezing import recursively_unfreeze
from luigi.task_register import Register

from datakit.op import Op
from datakit.registry import op_of
from datakit.template import Rendering
from pipelines.cli import invocation
from pipelines.cli.parameters import ListParameter, Number, ObjectParameter, OptionalWhole
from pipelines.cli.references import model_parameter, reference
from pipelines.graph.backend import model_at
from pipelines.graph.limits import longest_answer, longest_row
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import folder_name, rows_at
from pipelines.setups.setup_config import (
    SetupConfig,
    columns_parameter,
    held_apart,
    learning_parameter,
    max_new_tokens,
    not_held_out,
    renamed,
)
from pipelines.stages.iteration import PROMPTS_PER_SHARD, EvalSetup, TaskSetup
from schemas.errors import ConfigError

_EXAMPLES = {
    "model": "./my-model",
    "prompts": "prompts.jsonl",
    "original": "answers.jsonl",
    "reward": "my_reward:score",
}
"""What the setup reads, as it may be called, in commands that lack it."""

_ANSWER = 512
"""Tokens of an answer, where nobody says how many and models read that much."""


class own(SetupConfig):
    """A policy, prompts and a reward that you have: Hugging Face folders or checkpoints, files, Python functions."""

    title = luigi.Parameter(default="", description="folder of the data; empty: made of the names of policy and reward")
    model = model_parameter("policy to improve")
    policy = luigi.Parameter(default="", description="model")
    prompts = luigi.Parameter(default="", description="dataset (name or folder) or file of prompts")
    format = luigi.Parameter(default="prompts", description="format of a file of prompts (datakit.formats.forms)")
    columns = columns_parameter("the file of prompts")
    held_out = Number(default=0.1, least=0, most=1, description="share of the prompts that nothing is learnt from")
    reward = model_parameter("reward model; not needed where nothing is scored (SpinIteration)", "scorer")
    verifier = ObjectParameter(
        default={}, bare="kind", description='settings of label.verify, e.g. {"kind": "number"}; empty: none'
    )
    original = luigi.Parameter(
        default="", description="dataset (name or folder) or file of answers to blend in; empty: none is"
    )
    original_format = luigi.Parameter(
        default="completions", description="format of a file of answers (datakit.formats.forms)"
    )
    original_columns = columns_parameter("the file of answers")
    template = luigi.Parameter(
        default="", description="chat template, by name or as Jinja text; empty: the tokenizer's own"
    )
    stop = ListParameter(default=(), description="texts that end an answer, beside the end token")
    max_length = OptionalWhole(
        description="tokens of question and answer together; longer rows go; empty: what the models read, 2048 at most"
    )
    max_new_tokens = max_new_tokens(_ANSWER)
    improve = learning_parameter(
        "an improve step",
        epochs=1,
        global_batch_size=32,
        optim={"lr": 1e-5, "warmup_steps": 5, "schedule": "cosine"},
    )

    def task_setup(self, plan: Plan, seed: int, rendering: Rendering, needed: Sequence[str] = ("reward",)) -> TaskSetup:
        """The policy imported where it comes from outside, the prompts in two parts, the reward where there is one."""
        given = {"model": self.first, "prompts": self.prompts, "reward": self.reward, "original": self.original}
        missing = [name for name in ("model", "prompts", *needed) if not given[name]]
        if missing:
            raise self._missing(missing)
        title, policy = self._title(), model_at(plan, self.first, "generator")
        reward = model_at(plan, self.reward, "scorer") if self.reward else None
        prompts = rows_at(plan, self.prompts, self.format, f"{title}/imported", **renamed(self.columns))
        share, flag = self.held_out, "--own-held-out"
        train, held_out = held_apart(
            plan, f"{title}/", prompts, share, seed, flag=flag, key="messages", rows_per_shard=PROMPTS_PER_SHARD
        )
        original = self._original(plan, f"{title}/original", held_out) if self.original else None
        stop = tuple(map(str, recursively_unfreeze(self.stop)))
        models = [policy, *([] if reward is None else [reward])]
        max_length = plan.attempt(
            lambda: longest_row(self.max_length, models, "--own-max-length"),
            lambda: longest_row(None, models, ""),
        )
        answer = plan.attempt(
            lambda: longest_answer(self.max_new_tokens, _ANSWER, max_length, "--own-max-new-tokens"),
            lambda: longest_answer(None, _ANSWER, max_length, ""),
        )
        eval_setup = EvalSetup(
            name=title,
            held_out=held_out,
            tokenizer=policy,
            reward_model=reward,
            verifier=self._verify(),
            max_new_tokens=answer,
            max_length=max_length,
            rendering=rendering.over(Rendering(template=self.template or None, stop=stop)),
        )
        return TaskSetup(
            eval_setup=eval_setup,
            prompts=train,
            original=original,
            policy=policy,
            reward_model=reward,
            learning=self.improve,
        )

    def _missing(self, names: Sequence[str]) -> ConfigError:
        """The error of parameters that are not given; of a reward alone, where answers can be verified, with the
        command that learns from that.
        """
        described = {name: parameter.description for name, parameter in self.get_params()}
        flags = {name: invocation.flag_of(f"own_{name}") for name in names}
        is_verified = [*names] == ["reward"] and bool(self.verifier)
        kept = [*dict(Register.get_task_cls("Grpo").get_params()), *(f"own_{name}" for name in described)]
        learns = f"quiver Grpo {shlex.join(invocation.shared(kept))}"
        completed = invocation.completed(" ".join(f"{flags[name]} {_EXAMPLES[name]}" for name in names))
        return ConfigError(
            "missing-setting",
            f"the setup own needs {' and '.join(flags.values())}",
            expected="; ".join(f"{flag}: {described[name]}" for name, flag in flags.items()),
            found="--own-verifier, which measures answers here; Grpo learns from it" if is_verified else "",
            kept="nothing was started",
            next=learns if is_verified else completed,
        )

    def _original(self, plan: Plan, label: str, held_out: Node) -> Node:
        rows = rows_at(plan, self.original, self.original_format, label, **renamed(self.original_columns))
        return not_held_out(plan, f"{label}.train", rows, held_out)

    @property
    def first(self) -> str:
        """The policy that is improved, as it was named."""
        return reference(self, "policy", required=False)

    def _title(self) -> str:
        """The title, or what tells apart two policies or two rewards: `llama-3.1-8b+my_reward-score`."""
        places = (self.first, self.reward)
        return self.title or "+".join(folder_name(PurePosixPath(one.rstrip("/")).name) for one in places if one)

    def _verify(self) -> Op | None:
        settings: Any = recursively_unfreeze(dict(self.verifier))
        return op_of("label.verify", settings) if settings else None
