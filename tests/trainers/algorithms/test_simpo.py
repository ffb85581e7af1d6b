"""SimPO against its formula in numpy float64, value and gradient."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import ConfigError
from tests.trainers.algorithms.pairs import MASKS, Logprobs, check_formula, counts, loss_of, sums
from trainers.algorithms.simpo import SIMPO, Settings


def by_the_formula(settings: Settings, logprobs: Logprobs) -> np.ndarray:
    chosen, rejected = (value / count for value, count in zip(sums(logprobs), counts(), strict=True))
    surprise = np.log1p(np.exp(-(settings.beta * (chosen - rejected) - settings.gamma)))
    return np.asarray(surprise - settings.sft_weight * chosen)


@pytest.mark.parametrize("settings", [Settings(), Settings(beta=10.0, gamma=3.0, sft_weight=0.2), Settings(gamma=0.0)])
def test_value_and_gradient_are_those_of_the_formula(settings: Settings) -> None:
    check_formula(SIMPO, settings, by_the_formula)


def test_length_does_not_count() -> None:
    """Every token at -1: all rewards are -beta, all margins 0, the surprise is that at -gamma."""
    logprobs = {name: [[-1.0] * len(mask) for mask in masks] for name, masks in MASKS.items()}
    loss, _ = loss_of(SIMPO, Settings(beta=2.0, gamma=1.0), logprobs)
    np.testing.assert_allclose(loss.values.detach().numpy(), [np.log1p(np.e)] * 3, rtol=1e-12)
    np.testing.assert_allclose(loss.row_metrics["reward_chosen"].detach().numpy(), [-2.0] * 3)


@pytest.mark.parametrize("setting", [{"beta": 0.0}, {"gamma": -1.0}, {"sft_weight": -0.1}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="range"):
        Settings(**setting)
