"""DPO against its formula in numpy float64, value and gradient, and at points worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from schemas.errors import ConfigError
from tests.trainers.algorithms.pairs import (
    MASKS,
    REFERENCE,
    Logprobs,
    check_formula,
    counts,
    drawn,
    loss_of,
    ratios,
    sums,
)
from trainers.algorithms.dpo import DPO, Settings


def by_the_formula(settings: Settings, logprobs: Logprobs) -> np.ndarray:
    chosen, rejected = ratios(logprobs, average=settings.average_log_probs)
    z, e = settings.beta * (chosen - rejected), settings.label_smoothing
    preference = (1 - e) * np.log1p(np.exp(-z)) + e * np.log1p(np.exp(z))
    mean = settings.average_log_probs if settings.sft_average_log_probs is None else settings.sft_average_log_probs
    return preference - settings.sft_weight * sums(logprobs)[0] / (counts()[0] if mean else 1)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(beta=0.7, label_smoothing=0.1),
        Settings(average_log_probs=True, sft_weight=0.3),
        Settings(sft_weight=0.3, sft_average_log_probs=True),
    ],
)
def test_value_and_gradient_are_those_of_the_formula(settings: Settings) -> None:
    check_formula(DPO, settings, by_the_formula)


def test_a_policy_like_its_reference_is_surprised_by_log_two_and_wins_nothing() -> None:
    logprobs = {
        n: [[v / max(1, sum(m)) * k for k in m] for v, m in zip(REFERENCE[n], MASKS[n], strict=True)] for n in MASKS
    }
    loss, _ = loss_of(DPO, Settings(), logprobs)
    np.testing.assert_allclose(loss.values.detach().numpy(), [math.log(2)] * 3, rtol=1e-12)
    total, count = loss.metrics["accuracy"]
    assert (total.item(), count.item()) == (0.0, 3.0), "a tie is not a win"


def test_rewards_are_scaled_by_beta() -> None:
    logprobs = drawn(1)
    one, other = (loss_of(DPO, Settings(beta=beta), logprobs)[0].row_metrics for beta in (0.1, 0.3))
    np.testing.assert_allclose(other["reward_chosen"].detach(), 3 * one["reward_chosen"].detach(), rtol=1e-12)


@pytest.mark.parametrize("setting", [{"beta": 0.0}, {"label_smoothing": 0.5}, {"sft_weight": -1.0}, {"beta": math.nan}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="range"):
        Settings(**setting)
