"""APO against its formula in numpy float64, value and gradient, and at points worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import ConfigError
from tests.trainers.algorithms.pairs import Logprobs, check_formula, counts, loss_of, ratios, sums
from trainers.algorithms.apo import APO, Settings


def by_the_formula(settings: Settings, logprobs: Logprobs) -> np.ndarray:
    chosen, rejected = (settings.beta * ratio for ratio in ratios(logprobs, average=settings.average_log_probs))
    sft = -sums(logprobs)[0] / (counts()[0] if settings.average_log_probs else 1)
    if settings.anchor == "zero":
        preference = 1 - 1 / (1 + np.exp(-chosen)) + 1 / (1 + np.exp(-rejected))
    else:
        preference = 1 / (1 + np.exp(-chosen)) + 1 - 1 / (1 + np.exp(-(chosen - rejected)))
    return preference + settings.sft_weight * sft


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(anchor="down", beta=0.7),
        Settings(beta=2.0, average_log_probs=True, sft_weight=0.3),
        Settings(anchor="down", average_log_probs=True, sft_weight=0.1),
    ],
)
def test_value_and_gradient_are_those_of_the_formula(settings: Settings) -> None:
    check_formula(APO, settings, by_the_formula)


def test_by_hand() -> None:
    """Rewards of chosen ln 3, 0, -ln 3 and of rejected -ln 3, ln 3, 0: sigma(ln 3) is 3/4, sigma(2 ln 3) 9/10."""
    three = float(np.log(3))
    logprobs = {
        "chosen_ids": [[-9.0, -1.0, -2.0 + three], [-0.5], [-9.0, -9.0, -1.0, -3.0 - three]],
        "rejected_ids": [[-1.0, -1.5 - three], [-9.0, -1.0, three], [-3.0]],
    }
    zero, _ = loss_of(APO, Settings(beta=1.0), logprobs)
    np.testing.assert_allclose(zero.values.detach().numpy(), [1 / 4 + 1 / 4, 1 / 2 + 3 / 4, 3 / 4 + 1 / 2], rtol=1e-12)
    down, _ = loss_of(APO, Settings(anchor="down", beta=1.0), logprobs)
    np.testing.assert_allclose(down.values.detach().numpy(), [3 / 4 + 1 / 10, 1 / 2 + 3 / 4, 1 / 4 + 3 / 4], rtol=1e-12)
    assert zero.metrics["accuracy"][0].item() == 1


@pytest.mark.parametrize("setting", [{"beta": 0.0}, {"beta": float("nan")}, {"sft_weight": -0.1}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="range"):
        Settings(**setting)
