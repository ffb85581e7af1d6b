"""The Bradley-Terry reward model by hand."""

from __future__ import annotations

import math

import pytest
import torch

from schemas.errors import ConfigError
from trainers.algorithm import Loss, ModelOutputs, Needs
from trainers.algorithms.rm import RM, Settings


def loss_of(chosen: list[float], rejected: list[float], center: float = 0.0) -> Loss:
    rows = torch.arange(len(chosen))
    outputs = {
        "chosen_ids": ModelOutputs(rows, len(chosen), {Needs.SCORES: torch.tensor(chosen)[:, None]}),
        "rejected_ids": ModelOutputs(rows, len(chosen), {Needs.SCORES: torch.tensor(rejected)[:, None]}),
    }
    return RM.loss(Settings(center=center), outputs, {})


def test_loss_and_metrics() -> None:
    loss = loss_of([1.0, 0.0, 2.0], [0.0, 1.0, 2.0])
    expected = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(1)), math.log(2)]
    assert torch.allclose(loss.values, torch.tensor(expected))
    assert loss.weights.tolist() == [1.0, 1.0, 1.0]
    means = {name: (total / count).item() for name, (total, count) in loss.metrics.items()}
    assert math.isclose(means["accuracy"], 1 / 3, rel_tol=1e-6), "a tie is not a win"
    assert math.isclose(means["reward_chosen"], 1.0) and math.isclose(means["reward_rejected"], 1.0)
    assert math.isclose(means["reward_margin"], 0.0)


def test_gradient_pulls_the_two_apart() -> None:
    chosen_B1, rejected_B1 = torch.zeros(1, 1, requires_grad=True), torch.zeros(1, 1, requires_grad=True)
    rows = torch.arange(1)
    outputs = {
        "chosen_ids": ModelOutputs(rows, 1, {Needs.SCORES: chosen_B1}),
        "rejected_ids": ModelOutputs(rows, 1, {Needs.SCORES: rejected_B1}),
    }
    RM.loss(Settings(), outputs, {}).values.sum().backward()
    assert chosen_B1.grad is not None and rejected_B1.grad is not None
    assert chosen_B1.grad.item() == -0.5 and rejected_B1.grad.item() == 0.5


def test_center_pays_for_rewards_that_do_not_add_up_to_zero() -> None:
    plain, centered = loss_of([1.0, 3.0], [-1.0, 1.0]), loss_of([1.0, 3.0], [-1.0, 1.0], center=0.1)
    assert torch.allclose(centered.values - plain.values, torch.tensor([0.0, 1.6]))


@pytest.mark.parametrize("center", [-0.1, math.nan])
def test_a_center_that_pays_for_great_rewards_is_refused(center: float) -> None:
    with pytest.raises(ConfigError, match="center out of range"):
        Settings(center=center)
