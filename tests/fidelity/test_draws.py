"""What the sampler draws against distributions that numpy computes from transformers' logits: chi-square."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer, models

from tests.tail import late
from tests.trainers.networks import SMALL, llama, louder, network
from tests.trainers.sampling import Sampling
from trainers.engine.inference.generator import Generator
from trainers.engine.megatron.model import Network

pytest.importorskip("transformers")

COUNT = 12_000
PROMPT = [5, 17, 9, 30]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_p": 0.8},
    {"temperature": 1.5, "top_k": 20, "top_p": 0.9},
    {"temperature": 0.3, "top_p": 0.95},
]


@pytest.fixture(scope="module")
def net() -> Network:
    return louder(network(seed=4), 6.0).eval()


def wanted(
    logits_V: np.ndarray, missing: frozenset[int], temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> np.ndarray:
    """The distribution [V], one id after the other: the likeliest `top_k`, of these the fewest that make up `top_p`."""
    order = sorted((i for i in range(len(logits_V)) if i not in missing), key=lambda i: -logits_V[i])
    order = order[: top_k or None]
    weights = [np.exp((logits_V[i] - logits_V[order[0]]) / temperature) for i in order]
    total, mass, observed = sum(weights), 0.0, np.zeros(len(logits_V))
    for number, weight in zip(order, weights, strict=True):
        if mass >= top_p * total:
            break
        observed[number], mass = weight, mass + weight
    return observed / mass


def p_value(drawn: np.ndarray, shares_V: np.ndarray) -> float:
    """How likely draws are at least this far from `shares_V`: Pearson's chi-square, rare ids as one."""
    counts = np.bincount(drawn, minlength=len(shares_V)).astype(np.float64)
    assert (counts[shares_V == 0] == 0).all(), "an id of probability 0 was drawn"
    expected = shares_V * len(drawn)
    rare = expected < 8
    have, want = np.append(counts[~rare], counts[rare].sum()), np.append(expected[~rare], expected[rare].sum())
    have, want = have[want > 0], want[want > 0]
    freedom, statistic = len(want) - 1, float(((have - want) ** 2 / want).sum())
    if freedom == 0:
        return 1.0
    return float(torch.special.gammaincc(torch.tensor(freedom / 2).double(), torch.tensor(statistic / 2).double()))


def tokenizer(missing: frozenset[int]) -> Tokenizer:
    words = {f"w{i}": i for i in range(SMALL.vocab_size) if i not in missing}
    return Tokenizer(models.WordLevel(words, unk_token="w0"))


@torch.no_grad()
def logits(net: Network, ids: list[int]) -> np.ndarray:
    observed: np.ndarray = llama(net)(torch.tensor([ids])).logits[0, -1].double().numpy()
    return observed


WHOLE, GAPS = frozenset[int](), frozenset({2, 8, 40, 41, 42})
WAYS = [
    pytest.param("samples", WHOLE, id="samples-whole"),
    pytest.param("prompts", GAPS, id="prompts-gaps"),
    late("prompts", WHOLE, id="prompts-whole"),
    late("samples", GAPS, id="samples-gaps"),
]


@pytest.mark.parametrize(("spread", "missing"), WAYS)
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: " ".join(f"{n} {v}" for n, v in s.items()) or "plain")
def test_draws_follow_the_distribution(
    net: Network, settings: dict[str, Any], spread: str, missing: frozenset[int]
) -> None:
    """First tokens, and second ones behind the likeliest first; over samples of a prompt, or over prompts' seeds."""
    rows, each = (1, COUNT) if spread == "samples" else (COUNT, 1)
    prompts = pa.table({"prompt_ids": pa.array([PROMPT] * rows, pa.list_(pa.int32()))})
    drawing = Generator(net, tokenizer(missing), [], batch_size=COUNT)
    seeds = np.arange(rows, dtype=np.uint64) + np.uint64(11)
    answers = drawing.generate(prompts, Sampling(samples_per_prompt=each, max_new_tokens=2, **settings), seeds)
    drawn = np.array(answers["response_ids"].to_pylist())
    assert drawn.shape == (COUNT, 2)
    first = wanted(logits(net, PROMPT), missing, **settings)
    assert p_value(drawn[:, 0], first) > 1e-3
    likeliest = int(first.argmax())
    behind = drawn[drawn[:, 0] == likeliest, 1]
    assert len(behind) > 500
    assert p_value(behind, wanted(logits(net, [*PROMPT, likeliest]), missing, **settings)) > 1e-3


def test_the_test_sees_a_slightly_wrong_temperature(net: Network) -> None:
    shares = wanted(logits(net, PROMPT), frozenset(), temperature=1.0)
    wrong = wanted(logits(net, PROMPT), frozenset(), temperature=1.1)
    drawn = np.random.default_rng(0).choice(SMALL.vocab_size, COUNT, p=wrong)
    assert p_value(drawn, shares) < 1e-6
    assert p_value(drawn, wrong) > 1e-3
