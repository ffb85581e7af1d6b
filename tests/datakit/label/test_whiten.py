"""label.whiten: mean 0 and variance 1 over all counted tokens of all shards, against numpy on the concatenation."""

from __future__ import annotations

import numpy as np
import pytest

from datakit.apply import apply
from datakit.label import Whiten
from schemas.errors import ConfigError
from tests.datakit.fakes import Example
from tests.datakit.label.rollouts import counted, drawn, rollouts

MASKS = [[0, 1, 1], [1, 1], [0, 0], [0, 1, 0, 1]]
ROWS = rollouts(Whiten().takes, MASKS, advantages=[[9, 1, 2], [9, 3], [9, 9], [0, 4, 9, 5]])
EXAMPLES = [Example(Whiten(), (ROWS,)), Example(Whiten(output="white", shift=False), (ROWS,))]


@pytest.mark.parametrize("shift", [True, False])
def test_it_is_numpys_over_all_shards(put, tmp_path, shift: bool) -> None:
    masks, numbers = drawn(11, rows=60)
    values = [[value + 1e3 for value in row] for row in numbers(4.0)]
    op = Whiten(shift=shift)
    made = apply(op, put(rollouts(op.takes, masks, advantages=values), (7, 7, 31)), str(tmp_path / "made"))
    places = counted(masks)
    flat = np.array([np.float32(row[at]) for row, own in zip(values, places, strict=True) for at in own], np.float64)
    expected = (flat - flat.mean()) / np.sqrt(flat.var() + 1e-8) + (0 if shift else flat.mean())
    white = made.read()["advantages"].to_pylist()
    got = [row[at] for row, own in zip(white, places, strict=True) for at in own]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    assert sum(map(sum, white)) == pytest.approx(sum(got)), "0 at tokens that do not count"


def test_by_hand(put, tmp_path) -> None:
    """1 .. 5: mean 3, variance 2."""
    made = apply(Whiten(), put(ROWS, (2,)), str(tmp_path / "made")).read()["advantages"].to_pylist()
    one = 1 / np.sqrt(2 + 1e-8)
    np.testing.assert_allclose(np.concatenate(made), [0, -2 * one, -one, 0, 0, 0, 0, 0, one, 0, 2 * one], rtol=1e-6)


def test_equal_numbers_are_nothing_and_a_row_that_is_not_finite_goes(put, tmp_path) -> None:
    equal = rollouts(Whiten().takes, MASKS, advantages=[[0.1] * len(mask) for mask in MASKS])
    assert not np.concatenate(
        apply(Whiten(), put(equal), str(tmp_path / "equal")).read()["advantages"].to_pylist()
    ).any()
    odd = rollouts(Whiten().takes, [[0, 1]] * 3, advantages=[[0, 1.0], [0, float("inf")], [0, 3.0]])
    made = apply(Whiten(), put(odd), str(tmp_path / "odd"))
    np.testing.assert_allclose(np.concatenate(made.read()["advantages"].to_pylist()), [0, -1, 0, 1], rtol=1e-6)
    assert made.read_rejected()["reason"].to_pylist() == ["not-finite"]
    wide = rollouts(Whiten().takes, [[0, 1, 1]] * 3, advantages=[[0, 1e3, float("nan")], [0, 1, 2], [0, 3, 4]])
    stays = apply(Whiten(), put(wide, (1, 2)), str(tmp_path / "wide"))
    by_hand = np.array([-1.5, -0.5, 0.5, 1.5]) / np.sqrt(1.25 + 1e-8)
    np.testing.assert_allclose(np.concatenate(stays.read()["advantages"].to_pylist())[[1, 2, 4, 5]], by_hand, rtol=1e-6)
    with pytest.raises(ConfigError, match="epsilon out of range"):
        Whiten(epsilon=0.0)
