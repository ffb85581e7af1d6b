"""Logistic regression on one number: P(win) = sigma(theta + phi * length), with a standard normal prior on phi.

R rows    B draws of rows, as sums of their terms
"""

from __future__ import annotations

import numpy as np

from datakit.columns.bootstrap import Floats

_STEPS = 100
_CONVERGED = 1e-12
"""Of the gradient, a row."""


def fitted(won_R: Floats, length_R: Floats) -> tuple[float, float]:
    """theta and phi, which make the verdicts likeliest, with a standard normal prior on phi; by Newton's method, halved
    where a step would make them less likely.
    """
    theta = phi = 0.0
    best = _loss(won_R, length_R, theta, phi)
    for _ in range(_STEPS):
        sums_1D = terms(won_R, length_R, theta, phi).sum(axis=0, keepdims=True)
        up, across = (float(one[0]) for one in step(sums_1D, phi))
        slope = max(abs(float(sums_1D[0, 0])), abs(float(sums_1D[0, 1]) - phi))
        if slope <= _CONVERGED * max(1, len(won_R)):
            break
        while (loss := _loss(won_R, length_R, theta + up, phi + across)) > best and abs(up) + abs(across) > _CONVERGED:
            up, across = up / 2, across / 2
        theta, phi, best = theta + up, phi + across, min(best, loss)
    return theta, phi


def sigmoid(logit: Floats) -> Floats:
    """What lies between 0 and 1 for a number of any size."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logit))


def _loss(won_R: Floats, length_R: Floats, theta: float, phi: float) -> float:
    """Minus the log of likelihood and prior, but for a constant."""
    logit_R = theta + phi * length_R
    return float((np.logaddexp(0, logit_R) - won_R * logit_R).sum() + phi * phi / 2)


def terms(won_R: Floats, length_R: Floats, theta: float, phi: float) -> Floats:
    """What every row adds to the gradient (two terms) and to the curvature (three) of the log-likelihood [R, 5]."""
    expected_R = sigmoid(theta + phi * length_R)
    gradient_R, curvature_R = won_R - expected_R, expected_R * (1 - expected_R)
    columns = (gradient_R, gradient_R * length_R, curvature_R, curvature_R * length_R, curvature_R * length_R**2)
    return np.stack(columns, axis=1)


def step(sums_BD: Floats, phi: float) -> tuple[Floats, Floats]:
    """The Newton step of theta and of phi for sums of `terms`, the prior of phi added."""
    slope_B, along_B, a_B, b_B, c_B = sums_BD.T
    along_B, c_B = along_B - phi, c_B + 1
    with np.errstate(invalid="ignore", divide="ignore"):
        scale_B = 1 / (a_B * c_B - b_B**2)
        return (c_B * slope_B - b_B * along_B) * scale_B, (a_B * along_B - b_B * slope_B) * scale_B
