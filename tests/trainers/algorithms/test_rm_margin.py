"""Reward models of pairs with known strength: against the formula in numpy, by hand, and as NeMo-Aligner has it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from schemas.errors import ConfigError
from trainers.algorithm import Loss, ModelOutputs, Needs
from trainers.algorithms.rm_margin import RM_MARGIN, Settings

CHOSEN, REJECTED = [1.0, 0.0, 2.0, -1.5], [0.0, 1.0, 2.0, 0.25]
KNOWN = {"chosen_reward": [3.0, 1.0, 2.0, 0.5], "rejected_reward": [1.0, 0.0, 2.0, 1.0]}


def loss_of(settings: Settings, chosen: list[float], rejected: list[float]) -> tuple[Loss, list[torch.Tensor]]:
    rows = torch.arange(len(chosen))
    scores = [torch.tensor(side, dtype=torch.float64, requires_grad=True) for side in (chosen, rejected)]
    outputs = {
        name: ModelOutputs(rows, len(chosen), {Needs.SCORES: score[:, None]})
        for name, score in zip(("chosen_ids", "rejected_ids"), scores, strict=True)
    }
    known = {name: torch.tensor(values, dtype=torch.float64) for name, values in KNOWN.items()}
    return RM_MARGIN.loss(settings, outputs, known), scores


def by_the_formula(settings: Settings, chosen: list[float], rejected: list[float]) -> np.ndarray:
    r_c, r_r = np.array(chosen), np.array(rejected)
    strength = settings.margin_scale * np.abs(np.subtract(KNOWN["chosen_reward"], KNOWN["rejected_reward"]))
    margin = np.log1p(np.exp(-(r_c - r_r - strength)))
    scaled = strength * np.log1p(np.exp(-(r_c - r_r)))
    return (margin if settings.strength == "margin" else scaled) + settings.center * (r_c + r_r) ** 2


@pytest.mark.parametrize(
    "settings", [Settings(), Settings(strength="scaled"), Settings(strength="scaled", margin_scale=0.5, center=0.1)]
)
def test_value_and_gradient_are_those_of_the_formula(settings: Settings) -> None:
    loss, scores = loss_of(settings, CHOSEN, REJECTED)
    np.testing.assert_allclose(loss.values.detach().numpy(), by_the_formula(settings, CHOSEN, REJECTED), rtol=1e-12)
    loss.values.sum().backward()
    for side, score in enumerate(scores):
        expected = []
        for row in range(len(CHOSEN)):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [list(CHOSEN), list(REJECTED)]
                moved[side][row] += step
                ends.append(by_the_formula(settings, *moved).sum())
            expected.append((ends[0] - ends[1]) / 2e-6)
        assert score.grad is not None
        np.testing.assert_allclose(score.grad.numpy(), expected, atol=1e-8)


def test_points_worked_by_hand() -> None:
    """The first pair is 2 apart and scored 1 apart: it lacks 1. Equal known rewards weigh nothing."""
    margin, scaled = (loss_of(Settings(strength=name), CHOSEN, REJECTED)[0].values for name in ("margin", "scaled"))
    assert math.isclose(margin[0].item(), math.log(1 + math.e)) and math.isclose(margin[2].item(), math.log(2))
    assert math.isclose(scaled[0].item(), 2 * math.log(1 + math.exp(-1))) and scaled[2].item() == 0


@pytest.mark.parametrize("setting", [{"margin_scale": 0.0}, {"center": -0.1}, {"margin_scale": math.nan}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="range"):
        Settings(**setting)
