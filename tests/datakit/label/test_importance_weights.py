"""label.importance_weights: the three ways to cut weights, by hand and row by row from their definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from datakit.label import ImportanceWeights
from datakit.op import Context, LabelResult
from schemas.errors import ConfigError
from tests.datakit.fakes import Example
from tests.datakit.label.rollouts import counted, drawn, rollouts

LOG = [[0.0, math.log(3), math.log(0.25)], [0.0, 0.001, -0.0005]]
MASKS = [[0, 1, 1], [1, 1, 1]]
ONES = [[1.0, 1.0, 1.0]] * 2
EXAMPLES = [
    Example(op, (rollouts(op.takes, MASKS * 2, old_logprobs=LOG * 2, advantages=ONES * 2),))
    for op in (ImportanceWeights(), ImportanceWeights(kind="sequence", advantages=""))
]


def worked(op: ImportanceWeights, masks: list[list[int]], **columns: Any) -> LabelResult:
    made = op.label(rollouts(op.takes, masks, **columns), Context())
    assert isinstance(made, LabelResult)
    return made


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("truncate", [0, 2.0, 0.25], [0, math.exp(0.001), math.exp(-0.0005)]),
        ("mask", [0, 3.0, 0.0], [0, math.exp(0.001), math.exp(-0.0005)]),
        ("sequence", [0, 0.0, 0.0], [0, math.exp(0.001), math.exp(-0.0005)]),
    ],
)
def test_by_hand(kind: Any, first: list[float], second: list[float]) -> None:
    """Weights are 3 and 1/4 with the geometric mean 0.866, and two of about 1."""
    made = worked(ImportanceWeights(kind=kind), MASKS, old_logprobs=LOG, advantages=[[0, 2, -4], [0, 1, 1]])
    weights = made.columns["importance_weights"].to_pylist()
    np.testing.assert_allclose(weights, [first, second], rtol=1e-6)
    np.testing.assert_allclose(
        made.columns["advantages"].to_pylist(), [[0, 2 * first[1], -4 * first[2]], second], rtol=1e-6
    )
    assert made.columns["importance_ratio"].to_pylist() == pytest.approx([math.sqrt(0.75), math.exp(0.00025)], rel=1e-6)


@pytest.mark.parametrize("kind", ["truncate", "mask", "sequence"])
def test_it_is_its_definition_row_by_row(kind: Any) -> None:
    masks, numbers = drawn(8)
    old, generation = numbers(), numbers()
    op = ImportanceWeights(kind=kind, lower=0.4, upper=1.7, advantages="")
    weights = worked(op, masks, old_logprobs=old, drawn_logprobs=generation).columns["importance_weights"]
    kept = 0
    for row, places in enumerate(counted(masks)):
        ratios = [math.exp(old[row][at] - generation[row][at]) for at in places]
        middle = math.prod(ratios) ** (1 / len(ratios)) if ratios else 1.0
        expected = {
            "truncate": [min(max(ratio, 0.4), 1.7) for ratio in ratios],
            "mask": [ratio if 0.4 <= ratio <= 1.7 else 0.0 for ratio in ratios],
            "sequence": [ratio if 0.4 <= middle <= 1.7 else 0.0 for ratio in ratios],
        }[kind]
        kept += sum(value > 0 for value in expected)
        np.testing.assert_allclose([weights.to_pylist()[row][at] for at in places], expected, rtol=1e-6)
    assert kept > 0


def test_a_row_that_is_not_finite_goes_and_bounds_around_one_are_asked() -> None:
    made = worked(ImportanceWeights(), MASKS, old_logprobs=[[0, 0, math.nan], [math.nan, 0, 0]], advantages=ONES)
    assert made.kept.keep.to_pylist() == [False, True]
    huge = worked(ImportanceWeights(), MASKS, old_logprobs=[[0, 4000.0, 0], [0, 0, 0]], advantages=ONES)
    assert huge.columns["importance_weights"].to_pylist()[0] == [0, 2.0, 1.0]
    for settings in ({"lower": 1.5}, {"upper": 0.5}, {"kind": "mask", "upper": math.inf}):
        with pytest.raises(ConfigError, match="out of range"):
            ImportanceWeights(**settings)
