"""DPO against its formula in numpy float64, value and gradient, and at points worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from schemas.errors import ConfigError
from trainers.algorithm import Loss, ModelOutputs, Needs
from trainers.algorithms.dpo import DPO, Settings

MASKS = {"chosen_ids": [[0, 1, 1], [1], [0, 0, 1, 1]], "rejected_ids": [[1, 1], [0, 1, 1], [1]]}
REFERENCE = {"chosen_ids": [-3.0, -0.5, -4.0], "rejected_ids": [-2.5, -1.0, -3.0]}


def said_of(logprobs: list[list[float]]) -> ModelOutputs:
    lengths = [len(row) for row in logprobs]
    flat = torch.tensor([value for row in logprobs for value in row], dtype=torch.float64, requires_grad=True)
    row_T = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
    return ModelOutputs(row_T, len(lengths), {Needs.LOGPROBS: flat})


def drawn(seed: int = 0) -> dict[str, list[list[float]]]:
    random = np.random.default_rng(seed)
    return {name: [(-random.exponential(1.5, len(row))).tolist() for row in masks] for name, masks in MASKS.items()}


def loss_of(settings: Settings, logprobs: dict[str, list[list[float]]]) -> tuple[Loss, dict[str, ModelOutputs]]:
    outputs = {name: said_of(rows) for name, rows in logprobs.items()}
    rows = {}
    for side in ("chosen", "rejected"):
        rows[f"{side}_mask"] = torch.tensor([value for row in MASKS[f"{side}_ids"] for value in row])
        rows[f"ref_logprob_{side}"] = torch.tensor(REFERENCE[f"{side}_ids"], dtype=torch.float64)
    return DPO.loss(settings, outputs, rows), outputs


def by_the_formula(settings: Settings, logprobs: dict[str, list[list[float]]]) -> np.ndarray:
    pi = {n: np.array([np.dot(p, m) for p, m in zip(logprobs[n], MASKS[n], strict=True)]) for n in MASKS}
    count = {n: np.array([sum(row) for row in MASKS[n]]) for n in MASKS}
    ratio = {n: (pi[n] - np.array(REFERENCE[n])) / (count[n] if settings.average_log_probs else 1) for n in MASKS}
    z = settings.beta * (ratio["chosen_ids"] - ratio["rejected_ids"])
    e = settings.label_smoothing
    preference = (1 - e) * np.log1p(np.exp(-z)) + e * np.log1p(np.exp(z))
    mean = settings.average_log_probs if settings.sft_average_log_probs is None else settings.sft_average_log_probs
    return preference - settings.sft_weight * pi["chosen_ids"] / (count["chosen_ids"] if mean else 1)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(beta=0.7, label_smoothing=0.1),
        Settings(average_log_probs=True, sft_weight=0.3),
        Settings(sft_weight=0.3, sft_average_log_probs=True),
    ],
)
def test_value_and_gradient_are_those_of_the_formula(settings: Settings) -> None:
    logprobs = drawn()
    loss, outputs = loss_of(settings, logprobs)
    np.testing.assert_allclose(loss.values.detach().numpy(), by_the_formula(settings, logprobs), rtol=1e-12)
    loss.values.sum().backward()
    step = 1e-6
    for name, rows in logprobs.items():
        expected = []
        for row in rows:
            for at in range(len(row)):
                kept = row[at]
                ends = []
                for row[at] in (kept + step, kept - step):
                    ends.append(by_the_formula(settings, logprobs).sum())
                row[at] = kept
                expected.append((ends[0] - ends[1]) / (2 * step))
        gradient = outputs[name].logprobs_T.grad
        assert gradient is not None
        np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-8)


def test_a_policy_like_its_reference_is_surprised_by_log_two_and_wins_nothing() -> None:
    logprobs = {
        n: [[v / max(1, sum(m)) * k for k in m] for v, m in zip(REFERENCE[n], MASKS[n], strict=True)] for n in MASKS
    }
    loss, _ = loss_of(Settings(), logprobs)
    np.testing.assert_allclose(loss.values.detach().numpy(), [math.log(2)] * 3, rtol=1e-12)
    total, count = loss.metrics["accuracy"]
    assert (total.item(), count.item()) == (0.0, 3.0), "a tie is not a win"


def test_rewards_are_scaled_by_beta() -> None:
    logprobs = drawn(1)
    one, other = (loss_of(Settings(beta=beta), logprobs)[0].row_metrics for beta in (0.1, 0.3))
    np.testing.assert_allclose(other["reward_chosen"].detach(), 3 * one["reward_chosen"].detach(), rtol=1e-12)


@pytest.mark.parametrize("setting", [{"beta": 0.0}, {"label_smoothing": 0.5}, {"sft_weight": -1.0}, {"beta": math.nan}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="range"):
        Settings(**setting)
