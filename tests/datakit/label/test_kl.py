"""label.kl: the published estimates, and that they estimate the divergence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from datakit.label import Kl
from datakit.op import Context, LabelResult
from tests.datakit.fakes import Example
from tests.datakit.label.rollouts import counted, drawn, rollouts

MASKS = [[1, 1, 1, 1], [0, 1]]
COLUMNS = {"old_logprobs": [[9, -1, -1, -1], [9, -2]], "ref_logprobs": [[0, 0, -15, -30], [0, -1.5]]}
EXAMPLES = [Example(Kl(estimator="k3"), (rollouts(Kl().takes, MASKS, **COLUMNS),))]


def worked(op: Kl, masks: list[list[int]], **columns: Any) -> LabelResult:
    made = op.label(rollouts(op.takes, masks, **columns), Context())
    assert isinstance(made, LabelResult)
    return made


@pytest.mark.parametrize(
    ("estimator", "expected", "other"),
    [
        ("k1", [-1, 14, 29], -0.5),
        ("k2", [0.5, 98, 420.5], 0.125),
        ("k3", [math.e - 2, 13 + math.exp(-14), 28], math.exp(0.5) - 1.5),
        ("abs", [1, 14, 29], 0.5),
    ],
)
def test_published_estimates(estimator: Any, expected: list[float], other: float) -> None:
    made = worked(Kl(estimator=estimator), MASKS, **COLUMNS).columns
    np.testing.assert_allclose(made["token_kl"].to_pylist()[0], [0, *expected], rtol=1e-6)
    np.testing.assert_allclose(made["kl"].to_pylist(), [sum(expected), other], rtol=1e-6)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_their_mean_over_tokens_of_the_policy_is_the_divergence(estimator: Any) -> None:
    policy, reference = np.array([0.5, 0.3, 0.2]), np.array([0.25, 0.25, 0.5])
    made = worked(
        Kl(estimator=estimator),
        [[0, 1, 1, 1]],
        old_logprobs=[[0, *np.log(policy)]],
        ref_logprobs=[[0, *np.log(reference)]],
    )
    expected = (policy * np.log(policy / reference)).sum()
    assert np.dot(policy, made.columns["token_kl"].to_pylist()[0][1:]) == pytest.approx(expected, rel=1e-6)


def test_it_is_its_definition_row_by_row_and_what_is_not_finite_goes() -> None:
    masks, numbers = drawn(2)
    old, ref = numbers(), numbers()
    made = worked(Kl(estimator="k2"), masks, old_logprobs=old, ref_logprobs=ref)
    sums = [sum((old[row][at] - ref[row][at]) ** 2 / 2 for at in own) for row, own in enumerate(counted(masks))]
    np.testing.assert_allclose(made.columns["kl"].to_pylist(), sums, rtol=1e-6)
    odd = worked(Kl(), MASKS, old_logprobs=[[math.nan, 0, 0, 0], [0, -math.inf]])
    assert odd.kept.keep.to_pylist() == [True, False]
    assert worked(Kl(estimator="k3"), [[0, 1]], ref_logprobs=[[0, 4e3]]).kept.keep.to_pylist() == [True]


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs"])
def test_what_is_infinite_goes_whatever_the_estimator(estimator: Any) -> None:
    inf = math.inf
    columns = {
        "old_logprobs": [[0, -inf], [0, -1], [0, -1], [0, -1]],
        "ref_logprobs": [[0, -1], [0, inf], [0, -inf], [0, -2]],
    }
    made = worked(Kl(estimator=estimator), [[0, 1]] * 4, **columns)
    assert made.kept.keep.to_pylist() == [False, False, False, True]
    assert made.columns["kl"].to_pylist()[:3] == [0, 0, 0]
