"""ORPO against its formula in numpy float64, value and gradient."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import ConfigError
from tests.trainers.algorithms.pairs import MASKS, Logprobs, check_formula, counts, drawn, loss_of, sums
from trainers.algorithms.orpo import ORPO, Settings


def by_the_formula(settings: Settings, logprobs: Logprobs) -> np.ndarray:
    chosen, rejected = (np.exp(value / count) for value, count in zip(sums(logprobs), counts(), strict=True))
    odds_ratio = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
    return np.asarray(-np.log(chosen) - settings.beta * np.log(odds_ratio / (1 + odds_ratio)))


@pytest.mark.parametrize("settings", [Settings(), Settings(beta=1.5)])
def test_value_and_gradient_are_those_of_the_formula(settings: Settings) -> None:
    check_formula(ORPO, settings, by_the_formula)


def test_even_odds_by_hand() -> None:
    """Every token at log 1/2: the odds are 1 on both sides, so the loss is log 2 + beta log 2."""
    logprobs = {name: [[np.log(0.5)] * len(mask) for mask in masks] for name, masks in MASKS.items()}
    loss, _ = loss_of(ORPO, Settings(beta=0.25), logprobs)
    np.testing.assert_allclose(loss.values.detach().numpy(), [1.25 * np.log(2)] * 3, rtol=1e-12)


def test_an_answer_that_is_certain_stays_finite() -> None:
    logprobs = drawn()
    logprobs["chosen_ids"][1] = [0.0]
    loss, outputs = loss_of(ORPO, Settings(), logprobs)
    loss.values.sum().backward()
    gradient = outputs["chosen_ids"].logprobs_T.grad
    assert loss.values.isfinite().all() and gradient is not None and gradient.isfinite().all()


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="range"):
        Settings(beta=0.0)
