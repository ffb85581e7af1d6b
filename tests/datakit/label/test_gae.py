"""label.gae: published vectors, tokens that do not count, and the recursion token by token."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from datakit.apply import apply
from datakit.label import Gae
from datakit.op import Context, LabelResult
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example
from tests.datakit.label.rollouts import counted, drawn, rollouts

SHORT = {"token_rewards": [[0, 0, 0, 5], [0, 1], [0, 2, 3]], "values": [[0, 1, 2, 3], [0, 4], [0, 1, 1]]}
MASKS = [[0, 1, 1, 1], [1, 1], [0, 0, 1]]
EXAMPLES = [Example(Gae(lam=0.5, gamma=0.9), (rollouts(Gae().takes, MASKS, **SHORT),))]


def worked(op: Gae, masks: list[list[int]], **columns: Any) -> tuple[list[list[float]], list[list[float]]]:
    made = op.label(rollouts(op.takes, masks, **columns), Context())
    assert isinstance(made, LabelResult) and all(made.kept.keep.to_pylist())
    return made.columns["advantages"].to_pylist(), made.columns["returns"].to_pylist()


def test_published_vectors() -> None:
    made, returns = worked(Gae(lam=0.0), [[0, 1, 1, 1]], token_rewards=[[0, 0, 0, 5]], values=[[0, 1, 2, 3]])
    assert made == [[0, 1, 1, 2]] and returns == [[0, 2, 3, 5]]
    rows = {"token_rewards": [[9, 0, 0, 1, 0]], "values": [[9, 0, 1, 2, 3]]}
    made, returns = worked(Gae(lam=0.0, gamma=0.5), [[0, 1, 1, 1, 1]], **rows)
    assert made == [[0, 0.5, 0, 0.5, -3]] and returns == [[0, 0.5, 1, 2.5, 0]]


def test_a_token_that_does_not_count_changes_nothing() -> None:
    rows = {"token_rewards": [[0, 0, 0, 0, 5]], "values": [[0, 1, 999, 2, 3]]}
    for lam in (0.0, 0.5, 1.0):
        plain, _ = worked(Gae(lam=lam), [[0, 1, 1, 1]], token_rewards=[[0, 0, 0, 5]], values=[[0, 1, 2, 3]])
        masked, returns = worked(Gae(lam=lam), [[0, 1, 0, 1, 1]], **rows)
        assert masked[0] == [0, plain[0][1], 0, *plain[0][2:]] and returns[0][2] == 0


def token_by_token(gamma: float, lam: float, rewards: list[float], values: list[float]) -> list[float]:
    made, following, carry = [], 0.0, 0.0
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        carry = reward + gamma * following - value + gamma * lam * carry
        made.append(carry)
        following = value
    return made[::-1]


@pytest.mark.parametrize(("value_lam", "length_alpha"), [(None, None), (1.0, None), (1.0, 0.3), (None, 2.0)])
def test_it_is_the_recursion_of_every_row(value_lam: float | None, length_alpha: float | None) -> None:
    masks, numbers = drawn(3)
    rewards, values, gamma = numbers(), numbers(), 0.97
    op = Gae(gamma=gamma, lam=0.8, value_lam=value_lam, length_alpha=length_alpha)
    made, returns = worked(op, masks, token_rewards=rewards, values=values)
    for row, places in enumerate(counted(masks)):
        given = [[column[row][at] for at in places] for column in (rewards, values)]
        lam = 0.8 if length_alpha is None else min(max(1 - 1 / (length_alpha * max(len(places), 1)), 0), 1)
        expected = token_by_token(gamma, lam, *given)
        gained = np.array(token_by_token(gamma, 0.8 if value_lam is None else value_lam, *given)) + given[1]
        np.testing.assert_allclose([made[row][at] for at in places], expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose([returns[row][at] for at in places], gained, rtol=1e-6, atol=1e-6)
        assert not any(value for at, value in enumerate(made[row]) if at not in places)


def test_a_number_that_is_not_finite_rejects_its_row_alone(put, tmp_path) -> None:
    values = [[0, 1, math.nan, 3], [math.nan, 4], [0, math.inf, 1]]
    rows = put(rollouts(Gae().takes, MASKS, token_rewards=SHORT["token_rewards"], values=values))
    made = apply(Gae(), rows, str(tmp_path / "made"))
    assert made.num_rows == 2, "what does not count may be anything"
    assert made.read_rejected()["reason"].to_pylist() == ["not-finite"]


def test_lists_that_do_not_run_along_and_settings_out_of_range_are_refused(put, tmp_path) -> None:
    odd = rollouts(Gae().takes, [[0, 1], [0, 1]], values=[[0.0, 1.0], [0.0]])
    with pytest.raises(DataError, match="values is not as long as loss_mask in 1 of 2 rows, first row 1"):
        apply(Gae(), put(odd), str(tmp_path / "odd"))
    for settings in ({"gamma": 1.1}, {"lam": -0.1}, {"value_lam": 2.0}, {"length_alpha": 0.0}):
        with pytest.raises(ConfigError, match="out of range"):
            Gae(**settings)
