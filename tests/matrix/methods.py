"""Every method as what it comes down to in training: an algorithm, and a table of rows.

Algorithms and presets come of the registry, with rows made of what each declares. A recipe whose training step is one
of these counts by that step, on rows that its own operations made of a few samples: `RECIPES`. What its operations ask
a model for, a stand-in answers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.apply import apply
from datakit.blend import Pair, PairAnswer, Shuffle
from datakit.filter import BestOf, Threshold
from datakit.label import AttributeLogprob, AttributeText, Logprobs, Standardize, Steerlm2Weights
from datakit.op import Op
from datakit.run.resource import Resource
from datakit.template import Chat, Condition, RewardPrompt, RewardTemplate
from datakit.tokenize import Mask, Sequences
from datakit.tokenizers.tokenizer import Tokenizer
from schemas import ATTRIBUTED, REWARD, SAMPLES, STEERLM_ATTRIBUTES, Column
from schemas.dataset import Dataset
from tests.datakit.fakes import token_model
from tests.matrix.families import VOCABULARY
from tests.trainers import toys
from tests.trainers.networks import words
from trainers import registry

PROMPTS, ANSWERS, ROWS = 6, 4, 8
SAMPLED = SAMPLES.adding(
    REWARD,
    Column("answer", pa.string(), "what the question was answered with in the original data"),
    Column("attributes", ATTRIBUTED["attributes"].type, "what was asked for"),
    Column("measured", ATTRIBUTED["attributes"].type, "what the answer has"),
)


@dataclass(frozen=True)
class Method:
    """A row of the page: its `title`, and the algorithm or preset that it trains by."""

    title: str
    algorithm: str


@dataclass(frozen=True)
class Recipe(Method):
    """A method in rounds, or with rows of its own: `ops` make its rows of samples."""

    ops: tuple[Op, ...]


def logprobs(*columns: str, of: tuple[str, str] = ("input_ids", "loss_mask")) -> Logprobs:
    """What a model says of whole answers, in `columns`."""
    return Logprobs(columns=tuple((*of, name) for name in columns), per="row")


CHAT = Chat(template="text", response="response", learn="last")
ANSWERED = (Shuffle(), CHAT, Mask())
PAIRED = (
    RewardPrompt(template="text", rows="preferences"),
    Sequences(),
    Logprobs(columns=tuple((f"{s}_ids", f"{s}_mask", f"ref_logprob_{s}") for s in ("chosen", "rejected")), per="row"),
)
STEERED = (AttributeText(), CHAT, Condition(), Mask())
WEIGHTED = (
    AttributeLogprob(),
    AttributeText(),
    CHAT,
    Mask(),
    logprobs("prior_logprob"),
    Condition(),
    Mask(),
    logprobs("ref_logprob"),
    Steerlm2Weights(),
)
RECIPES = {
    "RejectionSamplingIteration": Recipe("rejection sampling", "sft", (BestOf(k=1), *ANSWERED)),
    "RestIteration": Recipe("ReST", "sft", (Threshold(minimum_quantile=0.4), *ANSWERED)),
    "SpinIteration": Recipe("SPIN", "spin", (PairAnswer(), *PAIRED)),
    "DpoIteration": Recipe("iterative DPO", "dpo", (Pair(), *PAIRED)),
    "SteerLm": Recipe("SteerLM", "sft", STEERED),
    "SteerLm2Iteration": Recipe("SteerLM 2", "steerlm2", WEIGHTED),
    "DecisionTransformer": Recipe(
        "Decision Transformer", "sft", (Standardize(output="score"), RewardTemplate(column="score"), *ANSWERED)
    ),
}
"""By the name of the recipe."""
ISSUE = ("sft", "dpo", "rm")
"""What every family is cut by tensor and interrupted with, too."""


def methods() -> Mapping[str, Method]:
    """All of them, by algorithm, preset or recipe."""
    names = [*registry.algorithms(), *registry.presets()]
    return {**{name: Method(f"`{name}`", name) for name in names}, **RECIPES}


def samples() -> pa.Table:
    """A few answers to a few questions, of the words that the networks have, with rewards and attributes."""
    random = np.random.default_rng(3)

    def text(least: int) -> str:
        return " ".join(f"w{number}" for number in random.integers(2, VOCABULARY, random.integers(least, 9)))

    count = PROMPTS * ANSWERS
    questions = [text(3) for _ in range(PROMPTS)]
    wide = len(STEERLM_ATTRIBUTES)
    changed: dict[str, Any] = {
        "prompt_id": [f"p{i // ANSWERS}" for i in range(count)],
        "sample_id": [f"p{i // ANSWERS}/{i % ANSWERS}" for i in range(count)],
        "sample_index": [i % ANSWERS for i in range(count)],
        "messages": [[{"role": "user", "content": questions[i // ANSWERS]}] for i in range(count)],
        "tools": [None] * count,
        "response": [text(2) for _ in range(count)],
        "answer": [text(2) for _ in range(count)],
        "reward": random.normal(size=count).tolist(),
        "attributes": random.integers(0, 5, (count, wide)).astype(float).tolist(),
        "measured": random.uniform(0, 4, (count, wide)).tolist(),
    }
    rows = SAMPLED.example(count).to_pylist()
    made = [{**row, **{name: values[place] for name, values in changed.items()}} for place, row in enumerate(rows)]
    return SAMPLED.conform(pa.Table.from_pylist(made, schema=SAMPLED.arrow))


def tokenizer() -> Tokenizer:
    """Of the words that the networks have."""
    return Tokenizer("words", words(VOCABULARY).to_str(), None, None, "w1")


def rows_of(recipe: Recipe, folder: Path) -> Dataset:
    """The rows that the recipe's operations make of `samples`, each beside the one before."""
    data = toys.put(folder / "samples", SAMPLED, samples())
    resources = {**token_model(), "tokenizer": Resource("words", tokenizer)}
    for number, op in enumerate(recipe.ops):
        needed = {name: resources[name] for name in op.needs}
        data = apply(op, [data], str(folder / f"{number}"), resources=needed, seed=1)
    return data


def write(folder: Path) -> dict[str, str]:
    """The rows of every method below `folder`; where each lies."""
    makers: dict[str, Callable[[Path], Dataset]] = {
        name: functools.partial(rows_of, method) if isinstance(method, Recipe) else functools.partial(declared, method)
        for name, method in methods().items()
    }
    return {name: make(folder / name).url for name, make in makers.items()}


def declared(method: Method, folder: Path) -> Dataset:
    """Rows made of what the method's algorithm declares."""
    algorithm = registry.algorithm_of(method.algorithm)
    return toys.put(folder, algorithm.rows, toys.rows_for(algorithm, ROWS))
