"""What a task setup is, the parameters that several have, and the two models that most of them train."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import luigi
from luigi.freezing import recursively_unfreeze

from datakit.blend import Split
from datakit.filter import NotIn
from datakit.template import Rendering
from pipelines.cli.learning import MergedParameter
from pipelines.cli.parameters import ObjectParameter, OptionalWhole, Whole
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.stages.iteration import EvalSetup, TaskSetup, tokenized
from pipelines.stages.rewards import pair_tokens
from schemas.errors import ConfigError
from schemas.shards import ROWS_PER_SHARD
from trainers.architecture import ModelConfig
from trainers.config import merged


class SetupConfig(luigi.Config):
    """A section that can say what an iteration stands on."""

    @abstractmethod
    def task_setup(self, plan: Plan, seed: int, rendering: Rendering, needed: Sequence[str] = ("reward",)) -> TaskSetup:
        """What an iteration stands on, as nodes of `plan`; every text of it is written as `rendering` says. `needed` is
        what the iteration cannot do without of what a setup may lack: `reward`, `original`.
        """


def vocabulary(default: int) -> Whole:
    """The parameter of a setup that trains a tokenizer."""
    return Whole(default=default, description="size of the tokenizer that is trained")


def max_length(default: int) -> Whole:
    """The parameter that bounds a row."""
    return Whole(default=default, description="tokens of question and answer together; longer rows go")


def max_new_tokens(usual: int) -> OptionalWhole:
    """The parameter that bounds an answer."""
    words = "tokens of an answer, at most; empty: half of what question and answer may have together"
    return OptionalWhole(description=f"{words}, {usual} at most")


def columns_parameter(what: str) -> Any:
    """The parameter that renames keys of files."""
    return ObjectParameter(default={}, description=f"names that {what} uses for its format's keys, as JSON")


def renamed(columns: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader is given of `columns`; nothing where no name is."""
    return {"columns": recursively_unfreeze(dict(columns))} if columns else {}


def network(**default: Any) -> Any:
    """The parameter of a setup that trains its policy from nothing."""
    return MergedParameter(
        kind=ModelConfig, default=default, description="shape of the network (trainers.architecture.ModelConfig)"
    )


def learning_parameter(what: str, **default: Any) -> Any:
    """The parameter that holds the settings of one training of a setup."""
    return MergedParameter(default=default, description=f"learning of {what} (trainers.config)")


_PARTS = ("train", "held-out")


def held_apart(
    plan: Plan,
    label: str,
    rows: Node,
    share: float,
    seed: int,
    *,
    flag: str = "",
    key: str = "prompt_id",
    least: int = 1,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> tuple[Node, Node]:
    """`rows` in two parts that share no `key`: what is learnt from, and about `share` of the keys, `least` at least, to
    judge by. Their labels are `label` and the name of the part. `ConfigError` where the share, as `flag` gives it,
    leaves nothing to one of them.
    """
    if not 0 < share < 1:
        raise ConfigError(
            "bad-setting",
            f"{flag} {share:g} leaves nothing to {'learn from' if share else 'judge by'}",
            expected="between 0 and 1",
            kept="nothing was started",
            next=f"{flag} 0.1",
        )
    train, held_out = (
        plan.table(
            f"{label}{part}",
            Split(part=part, parts=_PARTS, shares=(1 - share, share), key=key, least=least),
            rows,
            seed=seed,
            rows_per_shard=rows_per_shard,
        )
        for part in _PARTS
    )
    return train, held_out


def not_held_out(plan: Plan, label: str, rows: Node, held_out: Node) -> Node:
    """`rows` without those whose first question `held_out` has: nothing is learnt from what is judged by."""
    return plan.table(label, NotIn(key="messages", reason="held-out"), rows, held_out)


def first_policy(
    plan: Plan, label: str, config: Any, tokenizer: Node, answers: Node, rendering: Rendering, seed: int
) -> Node:
    """A policy from nothing, taught `answers` as `max_length`, `architecture`, `model` and `base` of `config` say."""
    tokens = tokenized(plan, answers.label, tokenizer, answers, config.max_length, rendering)
    shape = {"max_sequence_length": config.max_length, **merged(config.architecture, config.model)}
    where = f"[{type(config).__name__}] base"
    training = plan.training("sft", config.base, seed=seed, model=shape, where=where)
    return plan.model(f"{label}/policy", training, data=tokens, tokenizer=tokenizer)


def reward_model(
    plan: Plan,
    label: str,
    pairs: tuple[Node, Node],
    policy: Node,
    eval_setup: EvalSetup,
    learning: Mapping[str, Any],
    seed: int,
) -> Node:
    """A Bradley-Terry reward model, from the policy's weights, on the first of `pairs`; validated on the second."""
    tokens = [
        pair_tokens(
            plan, f"{label}/pairs.{part}", rows, eval_setup.tokenizer, eval_setup.rendering, eval_setup.max_length
        )
        for part, rows in zip(("train", "held-out"), pairs, strict=True)
    ]
    where = f"reward model of {label}"
    training = plan.training("rm", learning, seed=seed, where=where)
    return plan.model(
        f"{label}/reward-model",
        training,
        data=tokens[0],
        tokenizer=eval_setup.tokenizer,
        init=policy,
        validation=tokens[1],
    )
