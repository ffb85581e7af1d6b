"""GSPO against its formula in plain Python, value and gradient: the answer's ratio, and its form for tokens."""

from __future__ import annotations

import math
from typing import Any

import pytest

from schemas.errors import ConfigError
from tests.trainers.algorithms.rollouts import MASKS, Rows, assert_is_the_formula, drawn, loss_of, reported
from trainers.algorithms.gspo import GSPO, Settings


def ratio(row: int, rows: Rows) -> float:
    """exp of the mean log-ratio of the counted tokens."""
    logs = [
        new - old
        for new, old, one in zip(rows["logprobs"][row], rows["old_logprobs"][row], MASKS[row], strict=True)
        if one
    ]
    return math.exp(sum(logs) / len(logs))


def formula(settings: Settings) -> Any:
    def of_row(row: int, rows: Rows) -> list[float]:
        s = ratio(row, rows)
        within = min(max(s, 1 - settings.clip_low), 1 + settings.clip_high)
        return [max(-advantage * s, -advantage * within) for advantage in rows["advantages"][row]]

    return of_row


@pytest.mark.parametrize("changes", [{"clip_low": 0.05, "clip_high": 0.1}, {"clip_low": 0.9, "clip_high": 5.0}, {}])
@pytest.mark.parametrize("aggregate", ["sequence", "constant"])
def test_one_advantage_an_answer_is_the_papers_loss(changes: dict[str, float], aggregate: Any) -> None:
    settings = Settings(aggregate=aggregate, max_tokens=3, **changes)  # type: ignore[arg-type]
    for seed in range(3):
        rows = drawn(seed, near=0.2)
        rows["advantages"] = [[row[0]] * len(row) for row in rows["advantages"]]
        assert_is_the_formula(GSPO, settings, formula(settings), rows)


def test_the_defaults_are_the_papers_and_clip_by_the_answer() -> None:
    """Of four answers two are out of 1 - 3e-4 .. 1 + 4e-4 on the side where the clip decides; tokens: 2, 1, 3, 2."""
    assert Settings() == Settings(aggregate="sequence", clip_low=3e-4, clip_high=4e-4)
    rows = drawn()
    shifts = (0.001, 0.0002, -0.001, -0.001)
    rows["old_logprobs"] = [[new - by for new in row] for row, by in zip(rows["logprobs"], shifts, strict=True)]
    rows["advantages"] = [[sign] * len(mask) for sign, mask in zip((1.0, 1.0, -1.0, 1.0), MASKS, strict=True)]
    loss, _ = loss_of(GSPO, Settings(), rows)
    assert loss.values.tolist() == pytest.approx([-1.0004, -math.exp(2e-4), 0.9997, -math.exp(-1e-3)], rel=1e-9)
    assert reported(loss, "clip_fraction") == pytest.approx(5 / 8)


def test_tokens_far_from_the_old_policy_weigh_in_whole() -> None:
    """A token moves the mean by its own log-ratio, however large: 40 and -40 cancel."""
    rows = drawn()
    far = [[40.0, -40.0, *[0.1] * 9][: len(mask)] for mask in MASKS]
    counted = [[by for by, one in zip(row, mask, strict=True) if one] for row, mask in zip(far, MASKS, strict=True)]
    rows["old_logprobs"] = [
        [a - b for a, b in zip(*pair, strict=True)] for pair in zip(rows["logprobs"], far, strict=True)
    ]
    rows["advantages"] = [[1.0] * len(mask) for mask in MASKS]
    loss, _ = loss_of(GSPO, Settings(clip_low=0.999, clip_high=1e30), rows)
    means = [min(max(sum(row) / len(row), -20.0), 20.0) for row in counted]
    assert loss.values.tolist() == pytest.approx([-math.exp(mean) for mean in means], rel=1e-9)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="out of range"):
        Settings(clip_low=-0.1)
