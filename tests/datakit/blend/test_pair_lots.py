"""blend.pair draws by lot: every set of candidates has the same chance, whatever answers its pairs have in common."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest

from datakit.blend import Pair
from datakit.op import Context
from tests.tail import late

PROMPTS = 3000

CASES = {
    "two of six pairs": ({"rule": "all_pairs", "max_pairs": 2}, [0.0, 1.0, 2.0, 3.0]),
    "three of six pairs": ({"rule": "all_pairs", "max_pairs": 3}, [0.0, 1.0, 2.0, 3.0]),
    "one pair, with ties": ({"rule": "all_pairs"}, [0.0, 0.0, 0.0, 1.0, 2.0]),
    "one pair over a margin": ({"rule": "all_pairs", "margin": 1.5}, [0.0, 1.0, 2.0, 3.0, 4.0]),
    "two of right and wrong": ({"rule": "right_vs_wrong", "max_pairs": 2}, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]),
    "two lower than the best": ({"rule": "best_vs_random", "max_pairs": 2}, [3.0, 2.0, 1.0, 0.0, 0.0]),
}


def candidates(settings: dict[str, Any], rewards: list[float]) -> list[tuple[int, int]]:
    """All pairs that the rule allows, by a loop."""
    best = [rewards.index(max(rewards))] if settings["rule"] == "best_vs_random" else range(len(rewards))
    return [(a, b) for a in best for b in range(len(rewards)) if rewards[a] - rewards[b] > settings.get("margin", 0)]


@pytest.mark.parametrize("seed", [0, late(5)])
@pytest.mark.parametrize("case", CASES)
def test_every_set_of_pairs_has_the_same_chance(answers, case, seed):
    settings, rewards = CASES[case]
    rows = answers({f"p{number}-": rewards for number in range(PROMPTS)})
    drawn = Pair(**settings).gather(rows, Context(seed=seed)).rows
    by_prompt: dict[str, list[tuple[int, int]]] = {}
    for prompt, chosen, rejected in zip(
        *(drawn[n].to_pylist() for n in ("prompt_id", "chosen", "rejected")), strict=True
    ):
        by_prompt.setdefault(prompt, []).append((int(chosen[-1]), int(rejected[-1])))
    sets = Counter(tuple(sorted(pairs)) for pairs in by_prompt.values())
    possible = list(itertools.combinations(sorted(candidates(settings, rewards)), settings.get("max_pairs", 1)))
    assert len(by_prompt) == PROMPTS and set(sets) <= set(possible)
    expected, freedom = PROMPTS / len(possible), len(possible) - 1
    chi_square = sum((sets[one] - expected) ** 2 / expected for one in possible)
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom), sets
