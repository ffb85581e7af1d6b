"""One iteration of an offline method: sample, score, keep, blend, train, evaluate; the graph that ReST, rejection
sampling and their relatives share.

    prompts of this iteration -> samples -> rewards -> kept -> improved policy -> evaluation

`TaskSetup` is what a setup gives: prompts, original data, tokenizer, first policy, reward model, verifier. What
is kept and how the policy learns it is the recipe's own matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from datakit.blend import Split
from datakit.clients import Sampling
from datakit.generate import Complete
from datakit.label import Reward
from datakit.op import Op
from datakit.template import Chat, Rendering
from datakit.tokenize import Mask
from pipelines.graph.backend import gives
from pipelines.graph.nodes import Node
from pipelines.graph.plan import Plan
from pipelines.stages.ask import Reading, ask, asked, readable
from pipelines.stages.measure import Measure

PROMPTS_PER_SHARD = 128
"""Prompts in one shard: what one worker process takes at a time."""

PLAIN = Rendering()
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
    rendering: Rendering = PLAIN

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


@dataclass(frozen=True, kw_only=True)
class TaskSetup:
    """What an iteration stands on: its evaluation setup, prompts to grow on, original data (COMPLETIONS;
    None: nothing is blended in), the first policy.

    `learning` are the settings of an improve step. `baselines` are figures to hold a reward model against: how many
    held-out pairs a judge puts in the right order who only looks at length. `pairs` are PREFERENCES, to learn from and
    to judge by, where there are any.
    """

    eval_setup: EvalSetup
    prompts: Node
    original: Node | None
    policy: Node
    reward_model: Node
    learning: Mapping[str, Any]
    baselines: Node | None = None
    pairs: tuple[Node, Node] | None = None


@dataclass(frozen=True)
class Evaluation:
    """A policy's answers to held-out prompts with their labels, and the figures."""

    answers: Node
    figures: Node


@dataclass(frozen=True)
class IterationResult:
    """What one iteration made: samples, their rewards, what was kept in each improve step, the policy and its
    figures.
    """

    number: int
    samples: Node
    rewards: Node
    kept: tuple[Node, ...]
    policy: Node
    evaluation: Evaluation

    @property
    def datasets(self) -> dict[str, Node]:
        """Its datasets by name; `kept` is that of the last improve step."""
        steps = {f"step={stage}/kept": rows for stage, rows in enumerate(self.kept, 1)}
        answers = {"answers": self.evaluation.answers}
        last = {"kept": self.kept[-1]} if self.kept else {}
        return {"samples": self.samples, "rewards": self.rewards, **steps, **last, **answers}


Keeping = Callable[[Plan, str, Node], list[Node]]
"""Plan, label prefix and rewarded samples in; the rows that each improve step trains on out."""

Improving = Callable[[Plan, str, TaskSetup, Node, Node, int], Node]
"""Plan, label, task setup, rows of one improve step, policy and seed in; the trained policy out."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """How an iteration is run: prompts and samples per iteration, sampling, what is kept,
    how the policy learns it.

    Its results lie below `<name>/<experiment>/`; a glob over that folder is about one experiment.
    """

    name: str
    experiment: str
    prompts: int
    sampling: Sampling
    keeping: Keeping
    improving: Improving
    seed: int


def evaluated(plan: Plan, label: str, eval_setup: EvalSetup, policy: Node, seed: int) -> Evaluation:
    """One answer at temperature 1 to every held-out prompt, verified and scored where that can be."""
    sampling = Sampling(max_new_tokens=eval_setup.max_new_tokens, stop=eval_setup.rendering.stop)
    complete = Complete(sampling=sampling)
    prompts = readable(plan, f"{eval_setup.name}/held-out", complete, eval_setup.held_out, policy, eval_setup.asking)
    answers: Node = asked(plan, f"{label}/answers", complete, prompts, policy, seed=seed)
    columns: tuple[str, ...] = ("response_ids.length",) if gives(policy, "generator", "token_ids") else ()
    if eval_setup.verifier is not None:
        answers = plan.table(f"{label}/answers.verified", eval_setup.verifier, answers)
        columns = ("correct", *columns)
    if eval_setup.reward_model is not None:
        name = f"{label}/answers.rewards"
        answers = scored(plan, name, eval_setup, eval_setup.reward_model, answers)
        columns = ("reward", *columns)
    return Evaluation(answers, plan.table(f"{label}/evaluation", Measure(stage=label, columns=columns), answers))


def scored(plan: Plan, label: str, eval_setup: EvalSetup, reward_model: Node, samples: Node) -> Node:
    """`samples` with their `reward`, as on `eval_setup`."""
    return ask(plan, label, Reward(), samples, reward_model, reading=eval_setup.scoring)


def tokenized(
    plan: Plan, label: str, tokenizer: Node, rows: Node, max_length: int | None, rendering: Rendering = PLAIN
) -> Node:
    """TOKENS of the conversations and answers in `rows`, the answer trained."""
    chat = Chat(**rendering.settings, response="response", learn="last")
    texts = plan.table(f"{label}.texts", chat, rows, tokenizer=tokenizer)
    return plan.table(f"{label}.tokens", Mask(max_length=max_length), texts, tokenizer=tokenizer)


def iterated(plan: Plan, task_setup: TaskSetup, method: Method, number: int, policy: Node) -> IterationResult:
    """Iteration `number` (from 1), from `policy`."""
    eval_setup, label, seed = (
        task_setup.eval_setup,
        f"{method.name}/{method.experiment}/iter={number}",
        method.seed + number,
    )
    share = Split(
        part=str(number), parts=(*map(str, range(1, number + 1)), "rest"), counts=(*[method.prompts] * number, -1)
    )
    prompts = plan.table(
        f"{label}/prompts", share, task_setup.prompts, seed=method.seed, rows_per_shard=PROMPTS_PER_SHARD
    )
    complete = Complete(sampling=method.sampling)
    tokens = readable(plan, f"{label}/prompts", complete, prompts, policy, eval_setup.asking)
    samples = asked(plan, f"{label}/samples", complete, tokens, policy, seed=seed)
    rewards = scored(plan, f"{label}/rewards", eval_setup, task_setup.reward_model, samples)
    kept = method.keeping(plan, label, rewards)
    for stage, rows in enumerate(kept, 1):
        policy = method.improving(plan, f"{label}/step={stage}", task_setup, rows, policy, seed)
    return IterationResult(
        number, samples, rewards, tuple(kept), policy, evaluated(plan, label, eval_setup, policy, method.seed)
    )
