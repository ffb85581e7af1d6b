"""IPO against its formula in numpy float64, value and gradient, and at points worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import ConfigError
from tests.trainers.algorithms.pairs import Logprobs, check_formula, counts, loss_of, ratios, sums
from trainers.algorithms.ipo import IPO, Settings


def by_the_formula(settings: Settings, logprobs: Logprobs) -> np.ndarray:
    chosen, rejected = ratios(logprobs, average=settings.average_log_probs)
    sft = -sums(logprobs)[0] / (counts()[0] if settings.average_log_probs else 1)
    return (chosen - rejected - 0.5 / settings.beta) ** 2 + settings.sft_weight * sft


@pytest.mark.parametrize(
    "settings", [Settings(), Settings(beta=0.05, average_log_probs=True, sft_weight=0.3), Settings(sft_weight=0.1)]
)
def test_value_and_gradient_are_those_of_the_formula(settings: Settings) -> None:
    check_formula(IPO, settings, by_the_formula)


def test_by_hand() -> None:
    """Sums: chosen -1 + -2, -1, -1 + -1 against -3, -0.5, -4; rejected -2, -2, -4 against -2.5, -1, -3. At beta 0.5 the
    aim is 1.
    """
    logprobs = {
        "chosen_ids": [[-9.0, -1.0, -2.0], [-1.0], [-9.0, -9.0, -1.0, -1.0]],
        "rejected_ids": [[-1.0, -1.0], [-9.0, -1.0, -1.0], [-4.0]],
    }
    loss, _ = loss_of(IPO, Settings(beta=0.5), logprobs)
    np.testing.assert_allclose(
        loss.values.detach().numpy(), [(0 - 0.5 - 1) ** 2, (-0.5 + 1 - 1) ** 2, (2 + 1 - 1) ** 2]
    )
    assert loss.metrics["accuracy"][0].item() == 2


@pytest.mark.parametrize("setting", [{"beta": 0.0}, {"beta": float("nan")}, {"sft_weight": -0.1}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="range"):
        Settings(**setting)
