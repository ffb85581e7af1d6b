"""One iteration of an offline method: sample, score, keep, blend, train, evaluate; the graph that ReST, rejection
sampling and their relatives share.

    prompts of this iteration -> samples -> rewards -> kept -> improved policy -> evaluation

`TaskSetup` is what a setup gives: prompts, original data, tokenizer, first policy, reward model, verifier. Which
prompts are answered, whether answers are scored, what is kept and how the policy learns it is the recipe's own matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from datakit.blend import Mix, Split
from datakit.clients import Sampling
from datakit.filter import Window
from datakit.generate import Complete
from datakit.label import Reward
from datakit.op import Op
from datakit.report import Measure
from datakit.template import Rendering
from pipelines.graph.backend import gives
from pipelines.graph.node import Node, rows_of
from pipelines.graph.plan import Plan
from pipelines.graph.steps import after_steps, answer_steps
from pipelines.stages.ask import Reading, ask, asked, readable
from pipelines.stages.conversing import Conversing
from pipelines.stages.divergence import divergence

PROMPTS_PER_SHARD = 128
"""Prompts in one shard: what one worker process takes at a time."""

OWN_TEMPLATE = Rendering()
"""The tokenizer's own template, and nothing besides."""


@dataclass(frozen=True, kw_only=True)
class EvalSetup:
    """What a policy is judged by: prompts that nothing is learnt from, and where there are any a verifier and a
    reward model.

    `reward_model` is any model that scores (`pipelines.backends`). `max_length` bounds question and answer
    together, in tokens. `rendering` says how conversations are written and what ends an answer.
    """

    name: str
    held_out: Node
    tokenizer: Node
    reward_model: Node | None
    verifier: Op | None
    max_new_tokens: int
    max_length: int | None = None
    rendering: Rendering = OWN_TEMPLATE
    conversing: Conversing | None = None
    """What carries on conversations; None: there is one answer."""

    @property
    def room(self) -> int | None:
        """Tokens of the longest question that leaves room for an answer."""
        return None if self.max_length is None else self.max_length - self.max_new_tokens

    @property
    def asking(self) -> Reading:
        """How a policy reads prompts."""
        return Reading(rendering=self.rendering, tokenizer=self.tokenizer, max_length=self.room)

    @property
    def scoring(self) -> Reading:
        """How a reward model reads answers."""
        return Reading(rendering=self.rendering, tokenizer=self.tokenizer, max_length=self.max_length)

    def drawing(self, sampling: Sampling, policy: Node) -> Complete:
        """The operation that has `policy` answer, once or in a conversation."""
        if self.conversing is None:
            return Complete(sampling=sampling)
        return self.conversing.drawing(sampling, policy, self.rendering, self.max_length)

    @property
    def rewards(self) -> bool:
        """Whether a model or an environment rewards answers."""
        return self.reward_model is not None or (self.conversing is not None and self.conversing.rewards)

    @property
    def beside(self) -> dict[str, Node]:
        """What is asked beside the policy while it answers."""
        return {} if self.conversing is None else self.conversing.models(self.tokenizer)


@dataclass(frozen=True, kw_only=True)
class TaskSetup:
    """What an iteration stands on: its evaluation setup, prompts to grow on, original data (COMPLETIONS;
    None: nothing is blended in), the first policy.

    `learning` are the settings of an improve step. `baselines` are figures to hold a reward model against: how many
    held-out pairs a judge puts in the right order who only looks at length. `pairs` are PREFERENCES, to learn from and
    to judge by, where there are any. `reward_model` is None for an iteration that scores nothing. `trained`: what the
    setup trains by each parameter that `--set` may change, by its name.
    """

    eval_setup: EvalSetup
    prompts: Node
    original: Node | None
    policy: Node
    reward_model: Node | None
    learning: Mapping[str, Any]
    baselines: Node | None = None
    pairs: tuple[Node, Node] | None = None
    trained: Mapping[str, Node] = field(default_factory=dict)

    @property
    def scorer(self) -> Node:
        """The reward model of an iteration that scores, which asked for one."""
        assert self.reward_model is not None
        return self.reward_model


@dataclass(frozen=True)
class Evaluation:
    """A policy's answers to held-out prompts with their labels, and the figures."""

    answers: Node
    figures: Node


@dataclass(frozen=True)
class IterationResult:
    """What one iteration made: samples, their rewards (None: nothing scored them), what was kept in each improve step,
    the policy and its figures, those of how far it is from the first one where they are asked for.
    """

    number: int
    samples: Node
    rewards: Node | None
    kept: tuple[Node, ...]
    policy: Node
    evaluation: Evaluation
    divergence: Node | None = None

    @property
    def datasets(self) -> dict[str, Node]:
        """Its datasets by name; `kept` is that of the last improve step."""
        steps = {f"step={stage}/kept": rows for stage, rows in enumerate(self.kept, 1)}
        answers = {"answers": self.evaluation.answers}
        last = {"kept": self.kept[-1]} if self.kept else {}
        rewards = {} if self.rewards is None else {"rewards": self.rewards}
        return {"samples": self.samples, **rewards, **steps, **last, **answers}


@dataclass(frozen=True, kw_only=True)
class Grown:
    """What an iteration stands on once its answers are there: `samples` of `policy`, as `rewards` where they are
    scored, and the iterations before it. What it makes lies below `label`.
    """

    label: str
    seed: int
    task_setup: TaskSetup
    policy: Node
    samples: Node
    rewards: Node | None
    earlier: tuple[IterationResult, ...]

    @property
    def scored(self) -> Node:
        """The rewarded samples of an iteration that scores them."""
        assert self.rewards is not None
        return self.rewards

    def latest(self, count: int) -> tuple[IterationResult, ...]:
        """The `count` iterations before this one, or as many as there are."""
        return self.earlier[max(0, len(self.earlier) - count) :]


class Method(Protocol):
    """How an iteration is run: the recipe. Results lie below `<title>/<folder>/`; a glob over it is about one
    experiment.
    """

    title: ClassVar[str]
    scores: ClassVar[bool]
    """Whether the setup's reward model scores the answers."""
    divergence: bool
    """Whether each policy's divergence from the first one is measured."""

    @property
    def settled_seed(self) -> int:
        """The seed that those of all iterations come of."""

    def folder(self, title: str) -> str:
        """The folder of the experiment, for data of this title."""

    def sampling(self, max_new_tokens: int, stop: tuple[str, ...]) -> Sampling:
        """How answers of at most `max_new_tokens` are drawn; texts of `stop` end one."""

    def prompts(self, plan: Plan, label: str, task_setup: TaskSetup, number: int) -> Node:
        """The prompts that iteration `number` answers."""

    def keep(self, plan: Plan, grown: Grown) -> list[Node]:
        """The rows that each improve step trains on, out of the samples."""

    def improve(self, plan: Plan, grown: Grown, step: int, rows: Node, policy: Node) -> Node:
        """`policy` after improve step number `step` (from 1) on `rows`."""


def evaluated(plan: Plan, label: str, eval_setup: EvalSetup, policy: Node, seed: int) -> Evaluation:
    """One answer (or conversation) at temperature 1 to every held-out prompt, verified and scored where that can be."""
    sampling = Sampling(max_new_tokens=eval_setup.max_new_tokens, stop=eval_setup.rendering.stop)
    complete = Complete(sampling=sampling)
    prompts = readable(plan, f"{eval_setup.name}/held-out", complete, eval_setup.held_out, policy, eval_setup.asking)
    drawing, beside = eval_setup.drawing(sampling, policy), dict[str, Any](eval_setup.beside)
    answers: Node = plan.table(f"{label}/answers", drawing, prompts, seed=seed, generator=policy, **beside)
    length = "response_ids.length" if eval_setup.conversing is None else "turns"
    columns: tuple[str, ...] = (length,) if gives(policy, "generator", "token_ids") else ()
    if eval_setup.verifier is not None:
        answers = plan.table(f"{label}/answers.verified", eval_setup.verifier, answers)
        columns = ("correct", *columns)
    if eval_setup.reward_model is not None:
        name = f"{label}/answers.rewards"
        answers = scored(plan, name, eval_setup, eval_setup.reward_model, answers)
    if eval_setup.rewards:
        columns = ("reward", *columns)
    return Evaluation(answers, plan.table(f"{label}/evaluation", Measure(stage=label, columns=columns), answers))


def scored(plan: Plan, label: str, eval_setup: EvalSetup, reward_model: Node, samples: Node) -> Node:
    """`samples` with their `reward`, as on `eval_setup`."""
    return ask(plan, label, Reward(), samples, reward_model, reading=eval_setup.scoring)


def tokenized(
    plan: Plan, label: str, tokenizer: Node, rows: Node, max_length: int | None, rendering: Rendering = OWN_TEMPLATE
) -> Node:
    """TOKENS of the conversations and answers in `rows`, the answer trained."""
    return after_steps(plan, label, answer_steps(rendering, max_length, rows_of(rows)), rows, tokenizer)


def iteration_seed(seed: int, number: int) -> int:
    """The seed of iteration `number`, 31 bits: runs with other seeds draw from other streams in all iterations."""
    return int.from_bytes(hashlib.sha256(f"iteration\x1f{seed}\x1f{number}".encode()).digest()[:4], "big") >> 1


def drawn_prompts(plan: Plan, label: str, prompts: Node, count: int, number: int, seed: int) -> Node:
    """`count` of `prompts` for iteration `number`, drawn by lot; no other iteration has any of them."""
    share = Split(part=str(number), parts=(*map(str, range(1, number + 1)), "rest"), counts=(*[count] * number, -1))
    return plan.table(f"{label}/prompts", share, prompts, seed=seed, rows_per_shard=PROMPTS_PER_SHARD)


def next_prompts(plan: Plan, label: str, prompts: Node, count: int, number: int) -> Node:
    """The `count` rows of `prompts` that stand in their order behind those of the iterations before."""
    window = Window(offset=(number - 1) * count, limit=count)
    return plan.table(f"{label}/prompts", window, prompts, rows_per_shard=PROMPTS_PER_SHARD)


def partial_columns(parts: Iterable[Node], columns: Sequence[str] = ()) -> tuple[str, ...]:
    """What drawn answers have and original data has not, where a mixture of `parts` would lose it: because only some
    of them have it, or because it is none of the `columns` that the mixture is to have.
    """
    schemas = [rows_of(part) for part in parts]
    known = {name: [name in schema for schema in schemas] for name in ("drawn_sample_id", "finish_reason")}
    return tuple(name for name, has in known.items() if any(has) and (columns or not all(has)))


def joined_rows(plan: Plan, label: str, parts: Mapping[str, Node], seed: int) -> Node:
    """All rows of `parts`, which go by where they come from; those of the only part as they are."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    mix = Mix(sources=tuple(parts), epochs=(1.0,) * len(parts), partial=partial_columns(parts.values()))
    return plan.table(label, mix, *parts.values(), seed=seed)


def iterated(
    plan: Plan, task_setup: TaskSetup, method: Method, earlier: tuple[IterationResult, ...]
) -> IterationResult:
    """The iteration behind `earlier`, from the policy of the last of them."""
    number, policy = len(earlier) + 1, earlier[-1].policy if earlier else task_setup.policy
    eval_setup, seed = task_setup.eval_setup, iteration_seed(method.settled_seed, number)
    label = f"{method.title}/{method.folder(eval_setup.name)}/iter={number}"
    prompts = method.prompts(plan, label, task_setup, number)
    complete = Complete(sampling=method.sampling(eval_setup.max_new_tokens, eval_setup.rendering.stop))
    tokens = readable(plan, f"{label}/prompts", complete, prompts, policy, eval_setup.asking)
    samples = asked(plan, f"{label}/samples", complete, tokens, policy, seed=seed)
    rewards = None
    if method.scores:
        rewards = scored(plan, f"{label}/rewards", eval_setup, task_setup.scorer, samples)
    grown = Grown(
        label=label, seed=seed, task_setup=task_setup, policy=policy, samples=samples, rewards=rewards, earlier=earlier
    )
    unkept: list[Node] = [samples]
    kept = plan.attempt(lambda: method.keep(plan, grown), lambda: unkept)
    for step, rows in enumerate(kept, 1):
        policy = method.improve(plan, grown, step, rows, policy)
    evaluation = evaluated(plan, label, eval_setup, policy, method.settled_seed)
    far = divergence(plan, label, evaluation.answers, task_setup.policy) if method.divergence else None
    return IterationResult(number, samples, rewards, tuple(kept), policy, evaluation, far)
