"""What a step gave, as plain values: what metrics, records and speed are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StepResult:
    """A step over the global batch: the mean loss, its weight, the metrics' means, and whether someone asked to
    stop.

    `tokens` were read, `padded_tokens` what attention computed for them, `pairs` the (query, key)
    pairs within the window, later keys included. `sources` holds the mean loss of every source, by its place;
    `rows_RN` the sum of the loss, its weight and the row metrics of every row, in the order of the step, where asked
    for.
    """

    loss: float
    weight: float
    metrics: Mapping[str, float]
    tokens: int
    padded_tokens: int
    pairs: float
    sources: Mapping[int, float]
    rows_RN: np.ndarray
    stop: bool


@dataclass(frozen=True)
class TrainedStep:
    """A step that the optimizer made: what the batch gave, its figures by name, the rate, the gradient's norm."""

    result: StepResult
    figures: Mapping[str, float]
    lr: float
    grad_norm: float
