"""label.token_rewards: where the reward goes, what divergence and length cost, by hand and row by row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from datakit.apply import apply
from datakit.label import TokenRewards
from datakit.op import Context, LabelResult
from schemas.errors import ConfigError
from tests.datakit.fakes import Example
from tests.datakit.label.rollouts import counted, drawn, rollouts

PLAIN, SPENT = TokenRewards(), TokenRewards(kl_coefficient=0.01)
MASKS = [[0, 1, 1, 0], [1, 1]]
EXAMPLES = [
    Example(PLAIN, (rollouts(PLAIN.takes, MASKS, reward=[1.0, 2.0]),)),
    Example(SPENT, (rollouts(SPENT.takes, MASKS, reward=[1.0, 2.0], token_kl=[[0, 1, 2, 3], [4, 5]]),)),
]


def worked(op: TokenRewards, masks: list[list[int]], **columns: Any) -> tuple[list[list[float]], list[float]]:
    made = op.label(rollouts(op.takes, masks, **columns), Context())
    assert isinstance(made, LabelResult)
    return made.columns["token_rewards"].to_pylist(), made.columns["shaped_reward"].to_pylist()


def test_the_reward_stands_on_the_last_token_that_counts_and_the_divergence_on_each() -> None:
    assert worked(PLAIN, MASKS, reward=[1.0, 2.0]) == ([[0, 0, 1, 0], [0, 2]], [1.0, 2.0])
    made, shaped = worked(SPENT, MASKS, reward=[1.0, 2.0], token_kl=[[9, 1, 2, 9], [9, 5]])
    np.testing.assert_allclose(np.concatenate(made), [0, -0.01, 0.98, 0, 0, 1.95], rtol=1e-6)
    assert shaped == pytest.approx([0.97, 1.95])


def test_overlong_answers_pay_more_and_more() -> None:
    """Of at most 8 tokens the last 4 cost a quarter each; 4 are free."""
    op = TokenRewards(max_tokens=8, overlong_buffer=4, overlong_penalty=2.0)
    masks = [[0] + [1] * tokens for tokens in (1, 4, 5, 6, 8)]
    assert worked(op, masks, reward=[1.0] * 5)[1] == [1.0, 1.0, 0.5, 0.0, -1.0]
    assert worked(TokenRewards(length_penalty=0.25), masks, reward=[1.0] * 5)[1] == [0.75, 0.0, -0.25, -0.5, -1.0]


def test_it_is_its_definition_row_by_row() -> None:
    masks, numbers = drawn(4)
    masks = [[*mask, 1] for mask in masks]
    spent = [[*row, 0.5] for row in numbers()]
    rewards = np.random.default_rng(1).normal(size=len(masks)).tolist()
    op = TokenRewards(kl_coefficient=0.3, length_penalty=0.1, max_tokens=12, overlong_buffer=8)
    made, shaped = worked(op, masks, reward=rewards, token_kl=spent)
    for row, places in enumerate(counted(masks)):
        expected = [0.0] * len(masks[row])
        for at in places:
            expected[at] = -0.3 * spent[row][at]
        size = len(places)
        expected[places[-1]] += rewards[row] - 0.1 * size + min(-(size - 4) / 8, 0)
        np.testing.assert_allclose(made[row], expected, rtol=1e-6, atol=1e-7)
        assert shaped[row] == pytest.approx(sum(expected), rel=1e-6, abs=1e-7)


def test_rows_that_earn_no_number_go_with_the_reason(put, tmp_path) -> None:
    rows = put(rollouts(PLAIN.takes, [[0, 1], [0, 1], [1, 0], [0, 1]], reward=[None, math.inf, 1.0, 2.0]))
    made = apply(PLAIN, rows, str(tmp_path / "made"))
    assert made.read()["shaped_reward"].to_pylist() == [2.0]
    assert made.read_rejected()["reason"].to_pylist() == ["not-finite", "not-finite", "no-counted-token"]


@pytest.mark.parametrize(
    "settings",
    [
        {"kl_coefficient": -0.1},
        {"max_tokens": 8},
        {"max_tokens": 8, "overlong_buffer": 9},
        {"overlong_buffer": 4},
        {"length_penalty": math.nan},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        TokenRewards(**settings)
