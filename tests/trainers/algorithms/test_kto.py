"""KTO against its formula in numpy float64, value and gradient, and at points worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from schemas.errors import ConfigError
from tests.trainers.algorithms.pairs import outputs_of
from trainers.algorithm import Loss, ModelOutputs
from trainers.algorithms.kto import KTO, Settings, reference_point

LOGPROBS = [[-0.5, -1.0, -0.25], [-2.0], [-0.1, -0.2, -3.0, -0.4], [-1.5, -0.5]]
MASK = [[0, 1, 1], [1], [1, 0, 1, 1], [0, 1]]
REFERENCE = [-2.0, -1.5, -4.0, -0.75]
DESIRABLE = [1, 0, 1, 0]
MISMATCHED = [[-0.3], [-1.0, -0.5], [-2.0, -2.0], [-0.4]]
MISMATCHED_MASK = [[1], [1, 1], [0, 1], [1]]
MISMATCHED_REFERENCE = [-1.0, -1.25, -2.5, -1.0]
KL = (0.7 - 0.25 + 0.5 + 0.6) / 4


def flat(rows: list[list[Any]]) -> torch.Tensor:
    return torch.tensor([value for row in rows for value in row])


def columns(kl: float) -> dict[str, torch.Tensor]:
    return {
        "loss_mask": flat(MASK),
        "ref_logprob": torch.tensor(REFERENCE, dtype=torch.float64),
        "desirable": torch.tensor(DESIRABLE),
        "mismatched_mask": flat(MISMATCHED_MASK),
        "ref_logprob_mismatched": torch.tensor(MISMATCHED_REFERENCE, dtype=torch.float64),
        "kl": torch.tensor(kl),
    }


def loss_of(settings: Settings, kl: float, logprobs: list[list[float]]) -> tuple[Loss, ModelOutputs]:
    outputs = outputs_of(logprobs)
    return KTO.loss(settings, {"input_ids": outputs}, columns(kl)), outputs


def by_the_formula(settings: Settings, kl: float, logprobs: list[list[float]]) -> np.ndarray:
    ratio = np.array([np.dot(row, mask) for row, mask in zip(logprobs, MASK, strict=True)]) - REFERENCE
    ratio = ratio / [sum(mask) for mask in MASK] if settings.average_log_probs else ratio
    gain = settings.beta * (ratio - max(0.0, kl))
    wanted = settings.desirable_weight * (1 - 1 / (1 + np.exp(-gain)))
    return np.where(DESIRABLE, wanted, settings.undesirable_weight * (1 - 1 / (1 + np.exp(gain))))


@pytest.mark.parametrize("kl", [0.375, -0.5, 0.0])
@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(beta=0.7, desirable_weight=1.3, undesirable_weight=0.4),
        Settings(average_log_probs=True),
    ],
)
def test_value_and_gradient_are_those_of_the_formula(settings: Settings, kl: float) -> None:
    loss, outputs = loss_of(settings, kl, LOGPROBS)
    np.testing.assert_allclose(loss.values.detach().numpy(), by_the_formula(settings, kl, LOGPROBS), rtol=1e-12)
    loss.values.sum().backward()
    expected, step = [], 1e-6
    for row in range(len(LOGPROBS)):
        for at in range(len(LOGPROBS[row])):
            ends = []
            for change in (step, -step):
                moved = [list(values) for values in LOGPROBS]
                moved[row][at] += change
                ends.append(by_the_formula(settings, kl, moved).sum())
            expected.append((ends[0] - ends[1]) / (2 * step))
    assert outputs.logprobs_T.grad is not None
    np.testing.assert_allclose(outputs.logprobs_T.grad.numpy(), expected, atol=1e-9)


def test_points_worked_by_hand() -> None:
    """Ratios are 0.75, -0.5, 0.5, 0.25; with beta 2 and a reference point of 0.25 the gains are 1, -1.5, 0.5, 0."""
    loss, _ = loss_of(Settings(beta=2.0, undesirable_weight=2.0), 0.25, LOGPROBS)
    expected = [1 / (1 + math.e), 2 / (1 + math.exp(1.5)), 1 / (1 + math.exp(0.5)), 1.0]
    np.testing.assert_allclose(loss.values.detach().numpy(), expected, rtol=1e-12)
    rewards = {name: tuple(number.item() for number in pair) for name, pair in loss.metrics.items()}
    assert rewards == {"reward_desirable": (2.5, 2.0), "reward_undesirable": (-0.5, 2.0), "kl": (1.0, 4.0)}


@pytest.mark.parametrize(("average", "expected"), [(False, KL), (True, (0.7 - 0.125 + 0.5 + 0.6) / 4)])
def test_the_reference_point_is_a_mean_over_mismatched_answers(average: bool, expected: float) -> None:
    mismatched = outputs_of(MISMATCHED)
    total, count = reference_point(Settings(average_log_probs=average), {"mismatched_ids": mismatched}, columns(0))[
        "kl"
    ]
    assert not total.requires_grad
    assert total.item() / count.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("setting", [{"beta": 0.0}, {"desirable_weight": 0.0}, {"undesirable_weight": math.nan}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="range"):
        Settings(**setting)
