"""label.rloo: NeMo-Aligner's published baselines, and the mean of the others one by one."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from datakit.label import GroupAdvantage, Rloo
from datakit.op import Context
from tests.datakit.fakes import Example
from tests.datakit.label.rollouts import rollouts

ENDED = Rloo(voters="ended")


def table(prompts: str, rewards: list[float], op: Rloo = ENDED, cut: str = "") -> pa.Table:
    """Answers to the prompts named by letters; `cut` has a letter x where an answer was cut."""
    reasons = ["length" if mark == "x" else "stop" for mark in cut.ljust(len(prompts))]
    masks = [[0, 1, 1]] * len(prompts)
    return rollouts(op.takes, masks, prompt_id=list(prompts), reward=rewards, finish_reason=reasons)


EXAMPLES = [
    Example(Rloo(), (table("aaabbbccc", [float(n % 4) for n in range(9)], Rloo()),)),
    Example(ENDED, (table("aaabb", [1.0, 2.0, 4.0, 0.0, 1.0], cut=" x   "),)),
]


def test_the_baselines_of_nemo_aligner_but_for_the_divisor_of_the_answer_that_was_cut() -> None:
    """Three answers ended beside it, 2 + 7 - 1 is shared by three: 8/3, where NeMo-Aligner has 4."""
    made = ENDED.gather(table("aabaabbb", [1, 0, 2, -3, 5, 7, -1, 0], cut="       x"), Context()).rows
    expected = [2 / 3, 1, 3, 2, -2 / 3, 1 / 2, 9 / 2, 8 / 3]
    assert made["baseline"].to_pylist() == pytest.approx(expected, abs=1e-12)
    rewards = np.array([1, 0, 2, -3, 5, 7, -1, 0.0])
    np.testing.assert_allclose(made["advantage"], rewards - expected, atol=1e-12)
    assert made["advantages"].to_pylist()[0] == pytest.approx([0.0, 1 / 3, 1 / 3])


def test_it_is_a_group_advantage_over_the_others_without_a_scale() -> None:
    rows = table("abcabcab", [0.5, 1.0, 2.0, 3.0, -1.0, 0.0, 4.0, 2.5], Rloo())
    other = GroupAdvantage(baseline="leave_one_out", scale="none").gather(rows, Context()).rows
    assert Rloo().gather(rows, Context()).rows == other


def test_only_one_that_ended_has_nothing_to_be_held_against() -> None:
    made = ENDED.gather(table("aa", [3.0, 5.0], cut=" x"), Context()).rows
    assert made["advantage"].to_pylist() == [0.0, 2.0], "the one that was cut is held against the one that ended"
