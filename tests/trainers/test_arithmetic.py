"""Hand-worked numbers of the pure functions."""

from __future__ import annotations

import math

import torch

from trainers import arithmetic


def test_sum_per_row_is_the_log_probability_of_a_sequence() -> None:
    logprobs_T = torch.tensor([-0.5, -1.0, -0.25, -2.0])
    sums_B = arithmetic.sum_per_row(logprobs_T, torch.tensor([0, 0, 2, 2]), 3)
    assert sums_B.tolist() == [-1.5, 0.0, -2.25]


def test_sum_per_row_spreads_the_gradient() -> None:
    logprobs_T = torch.zeros(4, requires_grad=True)
    sums_B = arithmetic.sum_per_row(logprobs_T, torch.tensor([0, 0, 1, 1]), 2)
    (sums_B * torch.tensor([2.0, 3.0])).sum().backward()
    assert logprobs_T.grad is not None and logprobs_T.grad.tolist() == [2.0, 2.0, 3.0, 3.0]


def test_bradley_terry() -> None:
    surprise = arithmetic.bradley_terry(torch.tensor([0.0, math.log(3.0), -math.log(3.0)], dtype=torch.float64))
    assert torch.allclose(surprise, torch.tensor([math.log(2.0), math.log(4 / 3), math.log(4.0)], dtype=torch.float64))


def test_bradley_terry_far_out_is_exact() -> None:
    surprise = arithmetic.bradley_terry(torch.tensor([200.0, -200.0]))
    assert surprise.tolist() == [0.0, 200.0]
