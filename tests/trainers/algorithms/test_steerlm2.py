"""SteerLM 2.0 against its formula in numpy float64: value, gradient, and the divergence that it descends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.trainers.algorithms.pairs import outputs_of
from trainers.algorithm import Loss, ModelOutputs
from trainers.algorithms.steerlm2 import STEERLM2, Settings

GROUP = np.array([0, 0, 0, 1, 1, 1])
LOGPROBS = [[-0.5, -1.0, -0.25], [-2.0], [-0.1, -0.7, -0.4], [-1.5, -0.5], [-0.3, -0.2], [-0.9]]
MASK = [[0, 1, 1], [1], [1, 0, 1], [0, 1], [1, 1], [1]]
ATTRIBUTES = np.array([-0.5, -2.0, 0.0, -3.0, -0.1, -1.0])
PRIOR = np.array([-2.0, -1.5, -3.0, -1.0, -0.75, -2.0])
PROPOSAL = np.array([-1.0, -2.5, -1.25, -0.5, -0.5, -1.5])
TOKENS = np.array([5 / 3] * 3 + [4 / 3] * 3)

Rows = list[list[float]]


def softmax(values: np.ndarray) -> np.ndarray:
    shares = np.exp(values - values.max())
    return np.asarray(shares / shares.sum())


def of_groups(values: np.ndarray) -> np.ndarray:
    return np.concatenate([softmax(values[group == GROUP]) for group in (0, 1)])


def policy(logprobs: Rows) -> np.ndarray:
    return np.array([np.dot(row, mask) for row, mask in zip(logprobs, MASK, strict=True)])


def loss_of(logprobs: Rows, *, start: Rows) -> tuple[Loss, ModelOutputs]:
    outputs = outputs_of(logprobs)
    columns = {
        "weight": of_groups(ATTRIBUTES + PRIOR - PROPOSAL),
        "baseline": of_groups(policy(start) - PROPOSAL),
        "ref_logprob": policy(start),
        "group_size": np.full(6, 3),
        "group_tokens": TOKENS,
    }
    rows = {name: torch.from_numpy(np.asarray(values)) for name, values in columns.items()}
    rows["loss_mask"] = torch.tensor([value for row in MASK for value in row])
    return STEERLM2.loss(Settings(), {"input_ids": outputs}, rows), outputs


def gradient(logprobs: Rows, *, start: Rows) -> np.ndarray:
    """That of the mean over all answers, which is the mean over both requests."""
    loss, outputs = loss_of(logprobs, start=start)
    (loss.values * loss.weights).sum().div(loss.weights.sum()).backward()
    assert outputs.logprobs_T.grad is not None
    return np.asarray(outputs.logprobs_T.grad.numpy())


def differences(function: Any, logprobs: Rows, step: float = 1e-6) -> np.ndarray:
    slopes = []
    for row in range(len(logprobs)):
        for at in range(len(logprobs[row])):
            ends = []
            for change in (step, -step):
                moved = [list(values) for values in logprobs]
                moved[row][at] += change
                ends.append(function(moved))
            slopes.append((ends[0] - ends[1]) / (2 * step))
    return np.array(slopes)


def published(logprobs: Rows) -> float:
    """KL of the softmax of the weights from that of the policy, over the tokens of an answer, mean over requests."""
    weight, baseline = of_groups(ATTRIBUTES + PRIOR - PROPOSAL), of_groups(policy(logprobs) - PROPOSAL)
    return float((weight * np.log(weight / baseline) / TOKENS).sum() / 2)


def followed(logprobs: Rows, start: Rows) -> float:
    """The same divergence of shares that need not have the sum 1."""
    weight, first = of_groups(ATTRIBUTES + PRIOR - PROPOSAL), of_groups(policy(start) - PROPOSAL)
    share = first * np.exp(policy(logprobs) - policy(start))
    return float(((weight * np.log(weight / share) - weight + share) / TOKENS).sum() / 2)


def test_at_the_start_it_is_the_published_value_and_gradient() -> None:
    loss, _ = loss_of(LOGPROBS, start=LOGPROBS)
    weight, baseline = of_groups(ATTRIBUTES + PRIOR - PROPOSAL), of_groups(policy(LOGPROBS) - PROPOSAL)
    expected = sum(
        ((weight - baseline) * -policy(LOGPROBS))[group == GROUP].sum() / TOKENS[group == GROUP][0] for group in (0, 1)
    )
    assert loss.values.mean().item() == pytest.approx(expected / 2, rel=1e-12)
    np.testing.assert_allclose(
        gradient(LOGPROBS, start=LOGPROBS), differences(published, LOGPROBS), rtol=1e-7, atol=1e-9
    )
    total, count = loss.metrics["distance"]
    kl = (weight * np.log(weight / baseline)).sum() / 2
    assert total.item() / count.item() == pytest.approx(kl, rel=1e-5) and count.item() == 6


def test_behind_the_start_it_follows_the_policy() -> None:
    now = [
        [value - 0.3 * (at + 1) * (row % 2 or -0.2) for at, value in enumerate(values)]
        for row, values in enumerate(LOGPROBS)
    ]
    slopes = differences(lambda moved: followed(moved, LOGPROBS), now)
    np.testing.assert_allclose(gradient(now, start=LOGPROBS), slopes, rtol=1e-6, atol=1e-9)
    loss, _ = loss_of(now, start=LOGPROBS)
    total, count = loss.metrics["distance"]
    weight, first = of_groups(ATTRIBUTES + PRIOR - PROPOSAL), of_groups(policy(LOGPROBS) - PROPOSAL)
    share = first * np.exp(policy(now) - policy(LOGPROBS))
    np.testing.assert_allclose(loss.row_metrics["current_baseline"].numpy(), share, rtol=1e-12)
    divergence = (weight * np.log(weight / share) - weight + share).sum() / 2
    assert total.item() / count.item() == pytest.approx(divergence, rel=1e-5)


def test_an_answer_pushed_down_far_is_let_be_and_no_share_exceeds_one() -> None:
    """Weights below the baseline push down only as long as the policy still gives the answer; no share is above 1."""
    low = [[value - 40 for value in row] for row in LOGPROBS]
    baselines = loss_of(low, start=LOGPROBS)[0].row_metrics["current_baseline"]
    assert baselines.max().item() < 1e-15 and (gradient(low, start=LOGPROBS) <= 0).all(), "all of them are pushed up"
    high = [[value + 500 for value in row] for row in LOGPROBS]
    loss, _ = loss_of(high, start=LOGPROBS)
    assert loss.row_metrics["current_baseline"].tolist() == [1.0] * 6 and torch.isfinite(loss.values).all()
    assert (gradient(high, start=LOGPROBS) >= 0).all()


def test_a_request_weighs_as_many_as_it_has_answers() -> None:
    """Requests of two and of four answers: 2/6 of what the one lacks and 4/6 of the other."""
    logprobs = [[-1.0], [-3.0], [-0.5], [-2.0], [-1.5], [-4.0]]
    weight, baseline = np.array([0.9, 0.1, 0.7, 0.1, 0.1, 0.1]), np.array([0.5] * 2 + [0.25] * 4)
    policy = np.concatenate(logprobs)
    columns = {"weight": weight, "baseline": baseline, "ref_logprob": policy, "group_tokens": np.ones(6)}
    rows = {name: torch.from_numpy(values) for name, values in columns.items()}
    rows |= {"group_size": torch.tensor([2] * 2 + [4] * 4), "loss_mask": torch.ones(6)}
    loss = STEERLM2.loss(Settings(), {"input_ids": outputs_of(logprobs)}, rows)
    mean = (loss.values * loss.weights).sum() / loss.weights.sum()
    lacks = (weight - baseline) * -policy
    assert mean.item() == pytest.approx((2 * lacks[:2].sum() + 4 * lacks[2:].sum()) / 6, rel=1e-12)


def test_a_point_worked_by_hand() -> None:
    """Two answers of one request, equally likely to the policy; the weights are 3/4 and 1/4, an answer has 2 tokens."""
    outputs = outputs_of([[-1.0, -2.0], [-0.5]])
    rows = {
        "loss_mask": torch.tensor([1, 1, 1]),
        "weight": torch.tensor([0.75, 0.25]),
        "baseline": torch.tensor([0.5, 0.5]),
        "ref_logprob": torch.tensor([-3.0, -0.5]),
        "group_size": torch.tensor([2, 2]),
        "group_tokens": torch.tensor([1.5, 1.5]),
    }
    loss = STEERLM2.loss(Settings(), {"input_ids": outputs}, rows)
    assert loss.values.tolist() == pytest.approx([2 * 0.25 * 3 / 1.5, 2 * -0.25 * 0.5 / 1.5])
    assert loss.weights.tolist() == [1.0, 1.0]
    loss.values.mean().backward()
    assert outputs.logprobs_T.grad is not None
    assert outputs.logprobs_T.grad.tolist() == pytest.approx([-1 / 6, -1 / 6, 1 / 6])
