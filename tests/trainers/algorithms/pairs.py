"""Three pairs with log-probs, and a loss over them held against a formula in numpy: value and gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from trainers.algorithm import Algorithm, Loss, ModelOutputs, Needs

MASKS = {"chosen_ids": [[0, 1, 1], [1], [0, 0, 1, 1]], "rejected_ids": [[1, 1], [0, 1, 1], [1]]}
REFERENCE = {"chosen_ids": [-3.0, -0.5, -4.0], "rejected_ids": [-2.5, -1.0, -3.0]}
REWARDS = {"chosen": [4.0, 1.5, -0.25], "rejected": [1.0, 2.0, -3.0]}

Logprobs = dict[str, list[list[float]]]


def outputs_of(logprobs: list[list[float]]) -> ModelOutputs:
    lengths = [len(row) for row in logprobs]
    flat = torch.tensor([value for row in logprobs for value in row], dtype=torch.float64, requires_grad=True)
    row_T = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
    return ModelOutputs(row_T, len(lengths), {Needs.LOGPROBS: flat})


def drawn(seed: int = 0) -> Logprobs:
    random = np.random.default_rng(seed)
    return {name: [(-random.exponential(1.5, len(row))).tolist() for row in masks] for name, masks in MASKS.items()}


def loss_of(algorithm: Algorithm, settings: Any, logprobs: Logprobs) -> tuple[Loss, dict[str, ModelOutputs]]:
    outputs = {name: outputs_of(rows) for name, rows in logprobs.items()}
    rows = {}
    for side in ("chosen", "rejected"):
        rows[f"{side}_mask"] = torch.tensor([value for row in MASKS[f"{side}_ids"] for value in row])
        rows[f"ref_logprob_{side}"] = torch.tensor(REFERENCE[f"{side}_ids"], dtype=torch.float64)
        rows[f"{side}_reward"] = torch.tensor(REWARDS[side], dtype=torch.float64)
    return algorithm.loss(settings, outputs, rows), outputs


def sums(logprobs: Mapping[str, list[list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability of the counted tokens of chosen and of rejected, one number per pair."""
    chosen, rejected = (
        np.array([np.dot(row, mask) for row, mask in zip(logprobs[name], MASKS[name], strict=True)]) for name in MASKS
    )
    return chosen, rejected


def counts() -> tuple[np.ndarray, np.ndarray]:
    chosen, rejected = (np.array([sum(row) for row in MASKS[name]]) for name in MASKS)
    return chosen, rejected


def ratios(logprobs: Logprobs, *, average: bool) -> tuple[np.ndarray, np.ndarray]:
    """log pi - log pi_ref of chosen and of rejected."""
    chosen, rejected = (
        (value - np.array(REFERENCE[name])) / (count if average else 1)
        for value, name, count in zip(sums(logprobs), MASKS, counts(), strict=True)
    )
    return chosen, rejected


def check_formula(algorithm: Algorithm, settings: Any, formula: Callable[[Any, Logprobs], np.ndarray]) -> None:
    """Value to 1e-12, and gradient against the formula's central differences."""
    logprobs = drawn()
    loss, outputs = loss_of(algorithm, settings, logprobs)
    np.testing.assert_allclose(loss.values.detach().numpy(), formula(settings, logprobs), rtol=1e-12)
    loss.values.sum().backward()
    step = 1e-6
    for name, rows in logprobs.items():
        expected = []
        for row in rows:
            for at in range(len(row)):
                kept = row[at]
                ends = []
                for row[at] in (kept + step, kept - step):
                    ends.append(formula(settings, logprobs).sum())
                row[at] = kept
                expected.append((ends[0] - ends[1]) / (2 * step))
        gradient = outputs[name].logprobs_T.grad
        assert gradient is not None
        np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-7)
