"""The critic's loss against its formula in plain Python, value and gradient, and at points worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from schemas.errors import ConfigError
from tests.trainers.algorithms.rollouts import MASKS, Rows, assert_is_the_formula, drawn, reported
from trainers.algorithm import ModelOutputs, Needs
from trainers.algorithms.value import VALUE, Settings


def formula(settings: Settings) -> Any:
    def of_row(row: int, rows: Rows) -> list[float]:
        made = []
        for at in range(len(MASKS[row])):
            value, old, aim = (rows[name][row][at] for name in ("value", "values", "returns"))
            within = value if settings.clip is None else old + min(max(value - old, -settings.clip), settings.clip)
            made.append(0.5 * max((value - aim) ** 2, (within - aim) ** 2))
        return made

    return of_row


@pytest.mark.parametrize("clip", [None, 0.05, 0.2, 0.5])
def test_value_and_gradient_are_those_of_the_formula(clip: float | None) -> None:
    for seed in range(4):
        assert_is_the_formula(VALUE, Settings(clip=clip), formula(Settings(clip=clip)), drawn(seed), of="value")


def test_points_worked_by_hand() -> None:
    """From 0 to 1: with an aim of 2 the cut value 0.2 is further off, with an aim of 0 it is nearer; the last does not
    count."""
    answers = {Needs.VALUES: torch.tensor([[1.0], [1.0], [0.1], [9.0]])}
    outputs = ModelOutputs(torch.zeros(4, dtype=torch.long), 1, answers)
    columns = {"returns": torch.tensor([2.0, 0.0, 0.0, 5.0]), "values": torch.zeros(4)}
    columns["loss_mask"] = torch.tensor([1, 1, 1, 0])
    loss = VALUE.loss(Settings(), {"input_ids": outputs}, columns)
    torch.testing.assert_close(loss.values[:3], torch.tensor([1.62, 0.5, 0.005]))
    assert loss.weights.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert reported(loss, "clip_fraction") == pytest.approx(1 / 3)
    assert reported(loss, "squared_error") == pytest.approx(2.01 / 3)
    assert (reported(loss, "value"), reported(loss, "return")) == pytest.approx((0.7, 2 / 3))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="out of range"):
        Settings(clip=0.0)


def test_a_value_that_moved_less_than_the_clip_is_never_counted() -> None:
    """Around 0, old plus what it moved by is often another float32 than the value."""
    random = torch.Generator().manual_seed(0)
    old, value, aim = (0.19 * torch.rand(1000, generator=random) - 0.095 for _ in range(3))
    outputs = ModelOutputs(torch.zeros(1000, dtype=torch.long), 1, {Needs.VALUES: value[:, None]})
    columns = {"returns": aim, "values": old, "loss_mask": torch.ones(1000)}
    loss = VALUE.loss(Settings(), {"input_ids": outputs}, columns)
    assert reported(loss, "clip_fraction") == 0.0
    torch.testing.assert_close(loss.values, (value - aim).square() / 2, rtol=0, atol=0)
