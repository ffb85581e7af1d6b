"""CISPO against its formula in plain Python: the weight is cut and frozen, the gradient of no token is taken away."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from schemas.errors import ConfigError
from tests.trainers.algorithms.rollouts import (
    MASKS,
    Rows,
    assert_is_the_formula,
    drawn,
    flat,
    loss_of,
    mean_of,
    reported,
)
from trainers.algorithms.cispo import CISPO, Settings


def weights(settings: Settings) -> Any:
    """The cut ratios as a column that stays, whatever the log-probs become."""

    def of(rows: Rows) -> Rows:
        pairs = zip(rows["logprobs"], rows["old_logprobs"], strict=True)
        return {
            "weight": [
                [
                    min(max(math.exp(new - old), settings.ratio_low), settings.ratio_high)
                    for new, old in zip(*pair, strict=True)
                ]
                for pair in pairs
            ]
        }

    return of


def formula(row: int, rows: Rows) -> list[float]:
    return [
        -advantage * weight * logprob
        for advantage, weight, logprob in zip(
            rows["advantages"][row], rows["weight"][row], rows["logprobs"][row], strict=True
        )
    ]


@pytest.mark.parametrize("changes", [{}, {"ratio_low": 0.8, "ratio_high": 1.2}])
@pytest.mark.parametrize("aggregate", ["token", "sequence", "constant"])
def test_value_and_gradient_are_those_of_the_formula(changes: dict[str, float], aggregate: Any) -> None:
    settings = Settings(aggregate=aggregate, **changes)  # type: ignore[arg-type]
    for seed in range(2):
        assert_is_the_formula(CISPO, settings, formula, drawn(seed, near=1.0), frozen=weights(settings))


def test_tokens_out_of_bounds_learn_on() -> None:
    rows = drawn()
    rows["old_logprobs"] = [[value - 3.0 for value in row] for row in rows["logprobs"]]
    loss, outputs = loss_of(CISPO, Settings(ratio_high=2.0), rows)
    gradient = torch.autograd.grad(mean_of(loss), outputs.logprobs_T)[0]
    expected = -2.0 * flat(rows["advantages"], dtype=torch.float64) * flat(MASKS) / 8
    torch.testing.assert_close(gradient, expected)
    assert reported(loss, "clip_fraction") == 1.0 and reported(loss, "ratio") == pytest.approx(math.exp(3.0))


def test_settings_out_of_range_are_refused() -> None:
    for setting in ({"ratio_low": 1.5}, {"ratio_high": 0.5}):
        with pytest.raises(ConfigError, match="out of range"):
            Settings(**setting)  # type: ignore[arg-type]
