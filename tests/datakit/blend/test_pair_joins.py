"""Which pairs blend.pair joins, against a loop over all pairs; and what many answers to one prompt cost."""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction
from itertools import groupby, product

import numpy as np
import pytest

from datakit.duck.pairs import PairLimits, distances, joined_pairs


def columns(rng, prompts, answers, texts):
    """Random answers: few rewards, so that many tie, of one of so many `texts` in a prompt after the other."""
    count = prompts * answers
    text = rng.integers(0, np.repeat(np.resize(texts, prompts), answers))
    return {
        "row": rng.permutation(count),
        "prompt": np.repeat(np.arange(prompts), answers),
        "value": rng.integers(0, 6, count) / 4,
        "place": np.tile(np.arange(answers), prompts),
        "text": text,
        "size": text * 7 % 13,
        "lot": rng.integers(0, 2**63, count).astype(np.uint64),
    }


def by_hand(columns, rule, limits):
    rows = [dict(zip(columns, map(int, row), strict=True)) for row in zip(*columns.values(), strict=True)]
    for row, value in zip(rows, columns["value"].tolist(), strict=True):
        row["value"] = value
    pairs = []
    for _, group in groupby(rows, key=lambda row: row["prompt"]):
        answers = list(group)
        fitting = [(a, b) for a, b in product(answers, answers) if pairs_up(a, b, limits)]
        worst = rule == "best_vs_worst"
        fitting.sort(
            key=lambda p: (-p[0]["value"], p[0]["place"], p[1]["value"] if worst else p[1]["lot"], p[1]["place"])
        )
        pairs += [(a["row"], b["row"]) for a, b in fitting[: limits.most]]
    return pairs


def pairs_up(a, b, limits):
    shorter, longer = sorted((a["size"], b["size"]))
    close = limits.length_ratio is None or longer <= Fraction(repr(limits.length_ratio)) * shorter
    return a["value"] - b["value"] > limits.margin and a["text"] != b["text"] and close


@pytest.mark.parametrize("rule", ["best_vs_worst", "best_vs_random"])
@pytest.mark.parametrize("ratio", [None, 1.0, 1.4, 3.0, 1e300])
def test_pairs_are_those_of_a_loop_over_all_pairs(rule, ratio):
    rng = np.random.default_rng(3)
    given = columns(rng, 40, 8, (1, 2, 5, 40))
    for most, margin in ((1, 0.5), (4, 0.0), (50, 0.25)):
        limits = PairLimits(margin, 1.0, most, ratio)
        better, worse = joined_pairs(given, rule, limits)
        assert list(zip(better.tolist(), worse.tolist(), strict=True)) == by_hand(given, rule, limits)


@pytest.mark.parametrize("rule", ["all_pairs", "right_vs_wrong"])
@pytest.mark.parametrize("ratio", [None, 1.4])
def test_distances_are_those_of_a_loop_over_all_pairs(rule, ratio):
    given = columns(np.random.default_rng(4), 30, 8, (1, 2, 5, 40))
    limits = PairLimits(0.25, 1.0, 1, ratio)
    far = distances(given, rule, limits, len(given["row"]))
    rows = [
        dict(zip(given, row, strict=True)) for row in zip(*(column.tolist() for column in given.values()), strict=True)
    ]
    free = PairLimits(-np.inf, 1.0, 1, None)
    for one in rows:
        others = [two for two in rows if two["prompt"] == one["prompt"]]
        if rule == "right_vs_wrong":
            others = [two for two in others if (two["value"] >= 1) != (one["value"] >= 1)]
        reached = {"every": others, "other": [two for two in others if two["text"] != one["text"]]}
        reached["near"] = [two for two in others if pairs_up(one, two, replace(free, length_ratio=ratio))]
        for reach, there in reached.items():
            expected = max((abs(one["value"] - two["value"]) for two in there), default=np.nan)
            assert far[reach][one["row"]] == pytest.approx(expected, nan_ok=True), (reach, one)


@pytest.mark.parametrize("rule", ["best_vs_worst", "best_vs_random"])
def test_many_answers_to_a_prompt_cost_no_square(rule):
    """6 prompts of 2,000 answers took 5 to 9 seconds and 2 GB where all pairs were joined."""
    given = columns(np.random.default_rng(5), 6, 2000, (3000,))
    began = time.process_time()
    better, _ = joined_pairs(given, rule, PairLimits(0.0, 1.0, 1, 2.0))
    assert len(better) == 6 and time.process_time() - began < 2
    far = distances(given, rule, PairLimits(0.0, 1.0, 1, 2.0), 12000)
    assert np.isfinite(far["near"]).all() and time.process_time() - began < 4


@pytest.mark.parametrize("sizes", [(100, 115), (115, 100), (20, 23)])
def test_a_ratio_is_the_decimal_number_that_was_written(sizes):
    given = {
        **{name: np.arange(2) for name in ("row", "place", "text")},
        "prompt": np.zeros(2, np.int64),
        "value": np.array([1.0, 0.0]),
        "size": np.array(sizes),
        "lot": np.arange(2, dtype=np.uint64),
    }
    better, _ = joined_pairs(given, "best_vs_worst", PairLimits(0.0, 1.0, 1, 1.15))
    assert better.tolist() == [0]
