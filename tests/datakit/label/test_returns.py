"""label.returns: worked by hand, tokens that do not count, and discounted sums written as a double loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

from datakit.apply import apply
from datakit.label import Gae, Returns
from datakit.op import Context, LabelResult
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example
from tests.datakit.label.rollouts import counted, drawn, rollouts

MASKS = [[0, 1, 1, 1], [1, 1], [0, 0, 1]]
REWARDS = [[9, 0, 1, 5], [9, 1], [0, 2, 3]]
EXAMPLES = [Example(Returns(gamma=0.9), (rollouts(Returns().takes, MASKS, token_rewards=REWARDS),))]


def worked(op: Returns, masks: list[list[int]], rewards: list[list[float]]) -> list[list[float]]:
    made = op.label(rollouts(op.takes, masks, token_rewards=rewards), Context())
    assert isinstance(made, LabelResult) and all(made.kept.keep.to_pylist())
    returns: list[list[float]] = made.columns["advantages"].to_pylist()
    return returns


def test_by_hand() -> None:
    """Half of 5 is 2.5; with the 1 before it 3.5; half of that 1.75. The token in between does not count."""
    assert worked(Returns(), MASKS, REWARDS) == [[0, 6, 6, 5], [0, 1], [0, 0, 3]]
    assert worked(Returns(gamma=0.5), MASKS, REWARDS) == [[0, 1.75, 3.5, 5], [0, 1], [0, 0, 3]]
    assert worked(Returns(gamma=0.5), [[0, 1, 0, 1]], [[9, 1, 99, 4]]) == [[0, 3, 0, 4]]
    assert worked(Returns(gamma=0.0), MASKS, REWARDS) == [[0, 0, 1, 5], [0, 1], [0, 0, 3]]


@pytest.mark.parametrize("gamma", [1.0, 0.97, 0.3])
def test_it_is_the_sum_of_what_follows_and_gae_without_a_critic(gamma: float) -> None:
    masks, numbers = drawn(5)
    rewards = numbers()
    made = worked(Returns(gamma=gamma), masks, rewards)
    for row, places in enumerate(counted(masks)):
        earned = [rewards[row][at] for at in places]
        sums = [sum(gamma**later * one for later, one in enumerate(earned[at:])) for at in range(len(earned))]
        np.testing.assert_allclose([made[row][at] for at in places], sums, rtol=1e-6, atol=1e-6)
    op = Gae(gamma=gamma, lam=1.0)
    valued = op.label(rollouts(op.takes, masks, token_rewards=rewards), Context())
    assert isinstance(valued, LabelResult) and made == valued.columns["advantages"].to_pylist()


def test_what_is_not_finite_rejects_its_row_and_bad_settings_are_refused(put, tmp_path) -> None:
    rows = put(rollouts(Returns().takes, MASKS, token_rewards=[[math.nan, 0, 1, 5], [9, math.inf], [0, 2, 3]]))
    made = apply(Returns(column="earned"), rows, str(tmp_path / "made"))
    assert made.num_rows == 2 and "earned" in made.schema.names, "what does not count may be anything"
    assert made.read_rejected()["reason"].to_pylist() == ["not-finite"]
    with pytest.raises(DataError, match="token_rewards is not as long as loss_mask"):
        apply(Returns(), put(rollouts(Returns().takes, [[0, 1]], token_rewards=[[0.0]])), str(tmp_path / "odd"))
    with pytest.raises(ConfigError, match="out of range"):
        Returns(gamma=1.5)
