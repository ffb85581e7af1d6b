"""Four answers with log-probs, and a loss over them held against a formula in plain Python: value and gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from trainers.algorithm import Algorithm, Loss, ModelOutputs, Needs

MASKS = [[0, 1, 1], [1], [1, 0, 1, 1], [1, 1]]
NAMES = ("advantages", "old_logprobs", "ref_logprobs", "returns", "values")

Rows = dict[str, list[list[float]]]
Formula = Callable[[int, Mapping[str, list[list[float]]]], list[float]]
"""The row and all columns, with `logprobs` and `entropy` (or `value`) of the network: a loss of each counted token."""


def drawn(seed: int = 0, near: float = 0.3) -> Rows:
    """Columns along the masks; the policy is about `near` nats away from what it was."""
    random = np.random.default_rng(seed)
    rows: Rows = {"logprobs": [(-random.exponential(1.5, len(mask))).tolist() for mask in MASKS]}
    for name in NAMES:
        rows[name] = [random.normal(size=len(mask)).tolist() for mask in MASKS]
    for name in ("old_logprobs", "ref_logprobs"):
        rows[name] = [
            [was + near * step for was, step in zip(*pair, strict=True)]
            for pair in zip(rows["logprobs"], rows[name], strict=True)
        ]
    rows["entropy"] = [random.exponential(1.0, len(mask)).tolist() for mask in MASKS]
    rows["value"] = [[was + 0.3 * step for was, step in zip(row, row[::-1], strict=True)] for row in rows["values"]]
    return rows


def flat(rows: list[list[Any]], **kind: Any) -> torch.Tensor:
    return torch.tensor([value for row in rows for value in row], **kind)


def outputs_of(rows: Rows) -> ModelOutputs:
    """What the network says, in float64, with a gradient."""
    lengths = [len(mask) for mask in MASKS]
    row_T = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
    given = {"logprobs": Needs.LOGPROBS, "entropy": Needs.ENTROPY, "value": Needs.VALUES}
    answers = {need: flat(rows[name], dtype=torch.float64).requires_grad_() for name, need in given.items()}
    return ModelOutputs(row_T, len(lengths), {**answers, Needs.VALUES: answers[Needs.VALUES][:, None]})


def loss_of(algorithm: Algorithm, settings: Any, rows: Rows) -> tuple[Loss, ModelOutputs]:
    """The loss over these rows; of columns, what the algorithm reads under these settings alone."""
    outputs = outputs_of(rows)
    under = algorithm.under(settings)
    columns = {name: flat(rows[name], dtype=torch.float64) for name in under.sequences[0].aligned}
    loss = under.loss(settings, {"input_ids": outputs}, columns | {"loss_mask": flat(MASKS)})
    assert tuple(loss.metrics) == under.metrics and loss.values.shape == loss.weights.shape
    return loss, outputs


def mean_of(loss: Loss) -> torch.Tensor:
    """What the engine makes of it."""
    return (loss.values * loss.weights).sum() / loss.weights.sum()


def reported(loss: Loss, name: str) -> float:
    total, count = loss.metrics[name]
    return float(total / count)


def added_up(settings: Any, formula: Formula, rows: Rows) -> float:
    """The formula's losses as `aggregate` says, row by row."""
    by_row = [[formula(row, rows)[at] for at, one in enumerate(mask) if one] for row, mask in enumerate(MASKS)]
    aggregate = getattr(settings, "aggregate", "token")
    if aggregate == "token":
        return float(np.mean([value for row in by_row for value in row]))
    divisor = {"constant": lambda row: settings.max_tokens, "sequence": len}[aggregate]
    return float(np.mean([sum(row) / divisor(row) for row in by_row]))


def assert_is_the_formula(
    algorithm: Algorithm, settings: Any, formula: Formula, rows: Rows, *, of: str = "logprobs", frozen: Any = None
) -> None:
    """Value, and gradient by central differences; `frozen(rows)` are columns that a formula takes for constants."""
    loss, outputs = loss_of(algorithm, settings, rows)
    constants = {} if frozen is None else frozen(rows)
    assert mean_of(loss).item() == pytest.approx(added_up(settings, formula, rows | constants), rel=1e-9, abs=1e-12)
    need = {"logprobs": Needs.LOGPROBS, "entropy": Needs.ENTROPY, "value": Needs.VALUES}[of]
    given = outputs.answers[need]
    gradient = torch.autograd.grad(mean_of(loss), given)[0].flatten().numpy()
    expected, step = [], 1e-6
    for row in range(len(MASKS)):
        for at in range(len(MASKS[row])):
            ends = []
            for change in (step, -step):
                moved = copy.deepcopy(rows)
                moved[of][row][at] += change
                ends.append(added_up(settings, formula, moved | constants))
            expected.append((ends[0] - ends[1]) / (2 * step))
    assert np.any(expected)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)
