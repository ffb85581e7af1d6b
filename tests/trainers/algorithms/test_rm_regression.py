"""The regression reward model by hand."""

from __future__ import annotations

import pytest
import torch

from schemas.errors import ConfigError
from trainers.algorithm import Loss, Needs, Said
from trainers.algorithms.rm_regression import RM_REGRESSION, Settings

NONE = float("nan")


def loss_of(scores: list[list[float]], labels: list[list[float]]) -> tuple[Loss, torch.Tensor]:
    scores_BK = torch.tensor(scores, requires_grad=True)
    said = {"input_ids": Said(torch.arange(len(scores)), len(scores), {Needs.SCORES: scores_BK})}
    return RM_REGRESSION.loss(Settings(), said, {"labels": torch.tensor(labels)}), scores_BK


def test_attributes_that_were_not_judged_do_not_count() -> None:
    loss, scores_BK = loss_of([[1.0, 2.0], [3.0, 9.0], [5.0, 5.0]], [[0.0, 4.0], [3.5, NONE], [NONE, NONE]])
    assert loss.values.tolist() == [2.5, 0.25, 0.0] and loss.weights.tolist() == [2.0, 1.0, 0.0]
    total = (loss.values * loss.weights).sum()
    assert (total / loss.weights.sum()).item() == pytest.approx((1 + 4 + 0.25) / 3)
    error, count = loss.metrics["absolute_error"]
    assert (error.item(), count.item()) == (3.5, 3.0)
    total.backward()
    assert scores_BK.grad is not None
    assert scores_BK.grad.tolist() == [[2.0, -4.0], [-1.0, 0.0], [0.0, 0.0]]


def test_the_head_gives_one_number_per_attribute() -> None:
    assert RM_REGRESSION.outputs is not None
    assert RM_REGRESSION.outputs(Settings()) == 5 and RM_REGRESSION.outputs(Settings(attributes=("reward",))) == 1
    for wrong in ((), ("reward", "reward")):
        with pytest.raises(ConfigError, match="different names"):
            Settings(attributes=wrong)
