"""label.attribute_logprob: normal log-densities by hand and by the standard library; what nobody asked for."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.label import AttributeLogprob
from datakit.op import Context
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example

LISTS = pa.list_(pa.float64())
Numbers = list[float | None]


def table(requested: list[Numbers], measured: list[Numbers]) -> pa.Table:
    columns = {"attributes": pa.array(requested, LISTS), "measured": pa.array(measured, LISTS)}
    return AttributeLogprob().takes.conform(pa.table(columns))


def logprobs(requested: list[Numbers], measured: list[Numbers], **settings: object) -> list[float]:
    made = AttributeLogprob(**settings).label(table(requested, measured), Context())  # type: ignore[arg-type]
    assert all(made.kept.keep.to_pylist())
    return list(made.columns["attribute_logprob"].to_pylist())


def densities(asked: list[float], came: list[float], std: list[float]) -> float:
    return sum(math.log(NormalDist(m, s).pdf(a)) for a, m, s in zip(asked, came, std, strict=True))


EXAMPLES = [
    Example(AttributeLogprob(), (table([[n % 5, 2.0] for n in range(12)], [[n / 3, 1.5] for n in range(12)]),)),
    Example(AttributeLogprob(std=(0.5, 2.0)), (table([[n, None] for n in range(12)], [[1.0, n] for n in range(12)]),)),
]


def test_one_attribute_by_hand() -> None:
    """2 asked, 1 measured, a deviation of 1: -1/2 - log sqrt(2 pi)."""
    assert logprobs([[2.0]], [[1.0]], std=(1.0,)) == pytest.approx([-0.5 - math.log(math.sqrt(2 * math.pi))])


def test_it_is_the_sum_of_normal_log_densities() -> None:
    draw = np.random.default_rng(3)
    asked, came = draw.uniform(0, 4, (20, 3)), draw.uniform(0, 4, (20, 3))
    for std in ((0.7,), (0.8, 1.0, 3.0)):
        expected = [densities(*row, [*std] * (3 // len(std))) for row in zip(asked, came, strict=True)]
        np.testing.assert_allclose(logprobs(asked.tolist(), came.tolist(), std=std), expected, rtol=1e-12)


def test_what_was_not_asked_does_not_count() -> None:
    whole = logprobs([[3.0]], [[2.0]])
    for nothing in (None, math.nan, -100.0):
        assert logprobs([[nothing, 3.0]], [[1.0, 2.0]]) == whole == logprobs([[3.0, nothing]], [[2.0, None]])


def test_a_slice_of_a_column_is_read_where_it_lies() -> None:
    rows = table([[9.0, 9.0], [1.0, 2.0], [3.0, 0.0]], [[0.0, 0.0], [1.5, 2.0], [2.0, 1.0]])
    made = AttributeLogprob(std=(1.0, 2.0)).label(rows.slice(1), Context())
    expected = [densities([1.0, 2.0], [1.5, 2.0], [1.0, 2.0]), densities([3.0, 0.0], [2.0, 1.0], [1.0, 2.0])]
    np.testing.assert_allclose(made.columns["attribute_logprob"].to_pylist(), expected)


@pytest.mark.parametrize(
    ("requested", "measured", "reason"),
    [
        ([1.0, 2.0], [1.0], "attributes-are-not-pairs"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], "attributes-are-not-pairs"),
        (None, [1.0, 2.0], "attributes-are-not-pairs"),
        ([1.0, 2.0], [1.0, None], "attribute-not-finite"),
        ([1.0, 2.0], [math.inf, 2.0], "attribute-not-finite"),
        ([1.0, 2.0], [-100.0, 2.0], "attribute-not-finite"),
        ([math.inf, 2.0], [1.0, 2.0], "attribute-not-finite"),
        ([None, -100.0], [1.0, 2.0], "nothing-requested"),
    ],
)
def test_rows_that_have_no_number_are_refused(put, tmp_path, requested, measured, reason) -> None:
    op, given = AttributeLogprob(std=(1.0, 2.0)), put(table([[1.0, 2.0], requested], [[1.0, 2.0], measured]))
    with pytest.raises(DataError, match=reason):
        apply(op, given, str(tmp_path / "none"))
    made = apply(op, given, str(tmp_path / "made"), max_rejected=1)
    expected = densities([0.0, 0.0], [0.0, 0.0], [1.0, 2.0])
    assert made.read()["attribute_logprob"].to_pylist() == pytest.approx([expected])
    assert made.read_rejected()["reason"].to_pylist() == [reason]


@pytest.mark.parametrize("std", [(), (0.0,), (1.0, -1.0), (math.inf,), (math.nan,)])
def test_a_deviation_that_is_none_is_refused(std) -> None:
    with pytest.raises(ConfigError, match="std is"):
        AttributeLogprob(std=std)
