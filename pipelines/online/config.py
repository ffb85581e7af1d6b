"""What an online run is: a training (`trainers.config.Run`), and the operations that make the rows of its steps.

    {"run": {...},
     "step": {"prompts": 64, "answers": [{"name": "generate.complete", "params": {...}},
                                         {"name": "label.verify", "params": {...}}],
              "rows": [{"name": "tokenize.drawn"}, {"name": "label.group_advantage"}]}}

`run` names prompts that are tokenized as its `data`, and its last step; the rest of it is as `trainers.run` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any

from datakit.generate import Complete
from datakit.online import StepAgreement, StepLag, StepLogprobs, StepVersion
from datakit.online.logprobs import LogprobColumn
from datakit.op import Capability, Expand, Op, Precision
from datakit.registry import OPS, op_of
from datakit.run.chain import Chain, PaidChain
from pipelines.online.guards import Guards
from pipelines.online.kept_rollouts import KeepRollouts
from pipelines.online.learner import Declared, LearnerRun
from pipelines.online.learners import KINDS
from pipelines.online.network import FIRST_ANSWERS
from schemas.canonical import plain
from schemas.errors import ConfigError, printable
from schemas.rows.rollouts import ADVANTAGES
from schemas.settings import parse
from schemas.store.ownfiles import replace_file
from trainers import config
from trainers.config import Learning, Run
from trainers.registry import algorithms, configured

VERSION = 1
"""Rises when the same run draws or learns other rows."""

NETWORKS = "model"
"""What networks of the run are to operations that ask them about tokens: learners beside the policy, the first policy.
"""


_DRAWING = tuple(name for name, kind in OPS.items() if issubclass(kind, Complete))
"""Operations that draw answers of a policy."""


@dataclass(frozen=True, kw_only=True)
class OpSettings:
    """An operation by name, with its settings."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def op(self) -> Op:
        """The operation; `ConfigError` for one that there is not, and for bad settings."""
        return op_of(self.name, self.params)


def settings_of(ops: Sequence[Op]) -> tuple[OpSettings, ...]:
    """`ops` as a configuration holds them."""
    return tuple(OpSettings(name=op.name, params=op.params()) for op in ops)


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """How the rows of a step are made.

    `prompts` is how many are asked: the next in their order, from the first one again when all were. `answers` are
    operations over prompts, a chunk at a time: what they pay for is kept as they go; the first of them draws. `rows`
    are operations over all answers of the step, among them those that networks of the run itself answer
    (`online.logprobs`; `label.values`, by a critic beside the policy; `label.logprobs`, by its first policy); what
    comes out is learnt, whole, in `updates` optimizer steps with about as many rows each. Where filters that `rows`
    begin with leave fewer prompts than were asked, others are asked in their place, in `max_rounds` rounds at most; all
    that is left of these is learnt.

    With a `lag` of 1 the answers of a step are drawn before the step before it is learnt, by the weights as they stand
    then (one step off; those of the first step by the first weights): each says by which (`online.version`), and how
    old these are by the time that it is learnt (`online.lag`). What `rows` ask of networks is asked as the step begins.
    """

    prompts: int
    answers: tuple[OpSettings, ...]
    rows: tuple[OpSettings, ...]
    updates: int = 1
    max_rounds: int = 1
    lag: int = 0

    def faults(self) -> list[str]:
        """Why it contradicts itself; empty when it does not."""
        counts = {"prompts": self.prompts, "updates": self.updates, "max_rounds": self.max_rounds}
        faults = [f"step.{name} {count} is below 1" for name, count in counts.items() if count < 1]
        if not self.answers or self.answers[0].name not in _DRAWING:
            faults.append(f"step.answers begins with {' or '.join(_DRAWING)}")
        if len(set(self.logprobs)) < len(self.logprobs):
            faults.append("step.rows adds a column of online.logprobs twice")
        faults += self._faults_of_lag()
        return faults if self.rows else [*faults, "step.rows has no operation, and answers are no rows to learn"]

    def _faults_of_lag(self) -> list[str]:
        if self.lag not in (0, 1):
            return [f"step.lag {self.lag} is neither 0 nor 1"]
        needed = {StepVersion: "answers", StepLag: "rows"} if self.lag else {}
        names = {"answers": [one.name for one in self.answers], "rows": [one.name for one in self.rows]}
        faults = [f"step.{place} has no {op.name}" for op, place in needed.items() if op.name not in names[place]]
        if self.lag and self.asks_policy:
            faults.append(f"{StepAgreement.name} holds answers against the policy that drew them, and step.lag is 1")
        return faults

    def precision(self, name: str) -> Precision:
        """What the model `name` computes in, where it is a network that is opened here: as the operations say that ask
        it.
        """
        asking = (one.op for one in (*self.answers, *self.rows))
        return next((op.precision for op in asking if name in op.needs), "fp32")

    @property
    def answering(self) -> PaidChain:
        """From prompts to answers, as many prompts at a time as the first operation takes."""
        ops = tuple(one.op for one in self.answers)
        return PaidChain(ops=ops, rows_per_chunk=next(op.rows_per_chunk for op in ops if isinstance(op, Expand)))

    @property
    def labelling(self) -> Chain:
        """From answers to rows that are learnt."""
        return Chain(ops=tuple(one.op for one in self.rows))

    @property
    def filters(self) -> tuple[Op, ...]:
        """The operations that `rows` begin with and that only leave answers out."""
        return tuple(takewhile(lambda op: op.name.startswith("filter.") and not op.needs, self.labelling.ops))

    @property
    def validating(self) -> PaidChain:
        """From held-out prompts to one answer to each, drawn and judged as those of a step."""
        answering = self.answering
        draw = answering.ops[0]
        assert isinstance(draw, Complete), f"{draw.name}: another is refused"
        once = replace(draw, sampling=replace(draw.sampling, samples_per_prompt=1))
        return replace(answering, ops=(once, *answering.ops[1:]))

    @property
    def logprobs(self) -> tuple[LogprobColumn, ...]:
        """Columns of its rows that policies of the run itself give."""
        ops = self.labelling.ops
        return tuple(column for op in ops if isinstance(op, StepLogprobs) for column in op.columns)

    @property
    def asks_policy(self) -> bool:
        """Whether its rows are held against what the network in training says of them."""
        return any(isinstance(op, StepAgreement) for op in self.labelling.ops)

    @property
    def asked_of_networks(self) -> tuple[frozenset[Capability], ...]:
        """What each operation over its rows asks of networks about tokens, or of another frozen model."""
        return tuple(op.asks for op in self.labelling.ops if NETWORKS in op.needs)


@dataclass(frozen=True, kw_only=True)
class OnlineRun:
    """An online run. `models` are references of the models that operations ask besides the policy, by the name in
    their `needs` (`scorer`); for `tokenizer` a dataset or checkpoint folder. `learners` are trainings of other
    networks, by their kinds (`critic`): they answer operations over the rows of a step and learn from the rows that the
    policy learns from. `run.validation` are held-out prompts: every `run.validate_every` steps each is answered once,
    and what that is worth is reported.
    """

    run: Run
    step: StepConfig
    models: Mapping[str, str] = field(default_factory=dict)
    planned_models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What those of `models` that no manifest describes, a function say, were as the run was planned."""
    learners: Mapping[str, LearnerRun] = field(default_factory=dict)
    guards: Guards = field(default_factory=Guards)
    keep_rollouts: KeepRollouts = field(default_factory=KeepRollouts)
    max_rejected: float = 0.0
    """Share of the rows before an operation that it may drop of a chunk; how a step is made, and no part of keys."""

    def __post_init__(self) -> None:
        faults = self.step.faults()
        if self.run.learning.max_steps is None:
            faults.append("run.max_steps is missing: rows that are drawn step by step have no epochs")
        if self.run.paths.init is None and ("ref_logprobs" in self.step.logprobs or self.asks_first_policy):
            faults.append("step.rows asks the first policy, and without run.init there is no first policy to refer to")
        faults += self._faults_of_learners()
        if faults:
            raise ConfigError("contradiction", "; ".join(faults), kept="nothing was started")
        check_updates(self.run.learning, self.step, self.run.paths.out)

    @property
    def asks_first_policy(self) -> bool:
        """Whether operations over the rows of a step ask the first policy about tokens: no other model is named."""
        return NETWORKS not in self.models and any(
            not asks or (asks & {*FIRST_ANSWERS}) - self._answered_beside for asks in self.step.asked_of_networks
        )

    @property
    def _answered_beside(self) -> set[Capability]:
        return {one for name in self.learners if name in KINDS for one in KINDS[name].answers}

    @property
    def warmup(self) -> int:
        """Rounds that learners beside the policy alone learn from, before the first step."""
        return max((one.warmup for one in self.learners.values()), default=0)

    def _faults_of_learners(self) -> list[str]:
        asked = {one for asks in self.step.asked_of_networks for one in asks}
        faults = []
        for name, kind in KINDS.items():
            if (asked & {*kind.answers}) - self._answered_beside - {*FIRST_ANSWERS}:
                faults.append(f"step asks a {name}, and {name} is missing")
        for name, learner in self.learners.items():
            if name not in KINDS:
                faults.append(f"learners.{printable(name)} is none of {', '.join(KINDS)}")
            elif not asked & {*KINDS[name].answers}:
                faults.append(f"{name} says nothing: step.rows has no {asking(KINDS[name].answers)}")
            faults += learner.faults(name, self.run, self.step.updates)
        return faults


def asking(answers: Sequence[Capability]) -> str:
    """The operations that ask networks about tokens for any of `answers`."""
    kinds = {name: getattr(kind, "capabilities", ()) for name, kind in OPS.items() if NETWORKS in kind.needs}
    return " or ".join(name for name, asks in kinds.items() if {*asks} & {*answers})


def done(
    learning: Learning, step: StepConfig, learners: Mapping[str, Declared] = MappingProxyType({})
) -> dict[str, Any]:
    """What an online run does, as its checkpoint says it: the settings of the training, the whole step, and the
    trainings of what learns beside the policy.
    """
    train, beside = learning.op, trainings(learners)
    return {**train, "name": "online", "params": {**train["params"], "step": identity_fields(step, learners), **beside}}


def trainings(learners: Mapping[str, Declared]) -> dict[str, Any]:
    """What each of `learners` learns, as keys hold it."""
    return {name: one.learning.op for name, one in learners.items()}


def identity_fields(step: StepConfig, learners: Mapping[str, Declared] = MappingProxyType({})) -> dict[str, Any]:
    """`step` as keys hold it: operations with their versions, and what learns before it."""
    ops = {name: chain.to_json() for name, chain in (("answers", step.answering), ("rows", step.labelling))}
    more: dict[str, Any] = {f"{name}_warmup": one.warmup for name, one in learners.items() if one.warmup}
    more |= {"max_rounds": step.max_rounds} if step.max_rounds > 1 else {}
    more |= {"lag": step.lag} if step.lag else {}
    return {"prompts": step.prompts, "updates": step.updates, **more, **ops, "version": VERSION}


def check_updates(learning: Learning, step: StepConfig, where: str) -> None:
    """`ConfigError` for several updates of a step by an algorithm whose formula holds for one: for the weights that
    drew alone.
    """
    algorithm, _ = configured(learning.algorithm, learning.settings, where=where)
    if step.updates == 1 or not algorithm.one_update:
        return
    same = (one for one in algorithms().values() if not one.one_update and ADVANTAGES.name in one.rows)
    with_ratio = ", ".join(one.name for one in same)
    raise ConfigError(
        "one-update",
        f"{algorithm.name} holds for one update of each step, and a step makes {step.updates}: from the second on the "
        "answers are those of another policy",
        expected=f"one update, or an algorithm with a ratio of the two policies (without on_policy): {with_ratio}",
        found=f"{algorithm.name}, {step.updates} updates",
        where=where,
        kept="nothing was started",
        next="--algorithm ppo",
    )


def write(path: Path, online: OnlineRun) -> None:
    """Leave `online` in the JSON file `path`, as `read` takes it; never half of it."""
    replace_file(path, json.dumps(plain(online), indent=1))


def read(path: str) -> OnlineRun:
    """The run described by the JSON file `path`; `ConfigError` for anything that is not exactly one."""
    return parse(OnlineRun, config.read_json(path), where=path)
