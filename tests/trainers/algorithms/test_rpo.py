"""RPO against its formulas in numpy float64, value and gradient, and at points worked by hand."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from schemas.errors import ConfigError
from tests.trainers.algorithms.pairs import REWARDS, Logprobs, check_formula, counts, drawn, loss_of, ratios, sums
from trainers.algorithms.rpo import RPO, Settings


def bernoulli_kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.asarray(p * (np.log(p) - np.log(q)) + (1 - p) * (np.log(1 - p) - np.log(1 - q)))


def by_the_formula(settings: Settings, logprobs: Logprobs) -> np.ndarray:
    chosen, rejected = ratios(logprobs, average=settings.average_log_probs)
    margin = settings.beta * (chosen - rejected)
    known = settings.reward_scale * (np.array(REWARDS["chosen"]) - np.array(REWARDS["rejected"]))
    a, b = 1 / (1 + np.exp(-known)), 1 / (1 + np.exp(-margin))
    by_distance = {"sq": (margin - known) ** 2, "bwd_kl": bernoulli_kl(a, b), "fwd_kl": bernoulli_kl(b, a)}
    sft = -sums(logprobs)[0] / (counts()[0] if settings.average_log_probs else 1)
    return by_distance[settings.distance] + settings.sft_weight * sft


@pytest.mark.parametrize("distance", ["sq", "bwd_kl", "fwd_kl"])
@pytest.mark.parametrize("more", [{}, {"beta": 0.6, "reward_scale": 0.3, "average_log_probs": True, "sft_weight": 0.2}])
def test_value_and_gradient_are_those_of_the_formula(
    distance: Literal["sq", "bwd_kl", "fwd_kl"], more: dict[str, float]
) -> None:
    check_formula(RPO, Settings(distance=distance, **more), by_the_formula)  # type: ignore[arg-type]


@pytest.mark.parametrize("distance", ["sq", "bwd_kl", "fwd_kl"])
def test_nothing_is_lost_where_the_margins_agree(distance: Literal["sq", "bwd_kl", "fwd_kl"]) -> None:
    """The first pair's known margin is 3: a log-ratio of 15 at beta 0.2 is the same."""
    logprobs = drawn()
    logprobs["chosen_ids"][0], logprobs["rejected_ids"][0] = [0.0, 5.0, 7.0], [-2.5, 0.0]
    loss, _ = loss_of(RPO, Settings(distance=distance), logprobs)
    assert abs(loss.values[0].item()) < 1e-12 < loss.values[1].item()


def test_margins_far_apart_stay_finite() -> None:
    logprobs = drawn()
    logprobs["chosen_ids"][0] = [0.0, -9000.0, -9000.0]
    loss, outputs = loss_of(RPO, Settings(distance="fwd_kl"), logprobs)
    loss.values.sum().backward()
    gradient = outputs["chosen_ids"].logprobs_T.grad
    assert loss.values.isfinite().all() and gradient is not None and gradient.isfinite().all()


@pytest.mark.parametrize("setting", [{"beta": 0.0}, {"reward_scale": 0.0}, {"sft_weight": -0.1}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="range"):
        Settings(**setting)  # type: ignore[arg-type]
