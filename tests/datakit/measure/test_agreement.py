"""Agreement and kappa by hand, by slice, and with intervals that hold what they should."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.measure import Agreement
from datakit.measure.agreement import kappa
from schemas import Column, Schema
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example

LABELS = Schema(
    "labelled", 1, tuple(Column(name, pa.string(), name, nullable=True) for name in ("judge", "human", "source"))
)
OP = Agreement(one="judge", other="human", slices=("source",))


def labelled(*counts: tuple[str | None, str | None, str, int]) -> pa.Table:
    """Rows of judge, human and source, each so many times."""
    rows = [row for *row, count in counts for _ in range(count)]
    return pa.table({name: pa.array([row[at] for row in rows], pa.string()) for at, name in enumerate(LABELS.names)})


COHEN = labelled(("a", "a", "x", 20), ("a", "b", "x", 5), ("b", "a", "x", 10), ("b", "b", "y", 15))
EXAMPLES = [Example(OP, (LABELS.conform(COHEN),))]


def figures(op: Agreement, rows: pa.Table, put, place) -> dict[str, float]:
    out = apply(op, put(LABELS.conform(rows)), str(place))
    assert {*out.read()["stage"].to_pylist()} <= {op.stage}
    return {row["metric"]: row["value"] for row in out.read().to_pylist()}


def test_kappa_by_hand(put, tmp_path):
    """20 + 15 of 50 agree: p_o 0.7; by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5; kappa 0.4."""
    made = figures(OP, COHEN, put, tmp_path / "out")
    assert (made["rows"], made["agreement"]) == (50, 0.7)
    assert made["kappa"] == pytest.approx(0.4)
    assert made["kappa.low"] < 0.4 < made["kappa.high"]
    assert made["agreement[source=x]"] == pytest.approx(20 / 35) and made["rows[source=y]"] == 15
    assert "kappa[source=y]" not in made, "one label alone agrees by chance"


def test_rows_without_a_label_are_counted_and_left_out(put, tmp_path):
    rows = labelled(("a", "a", "x", 3), ("b", "b", "x", 3), (None, "a", "x", 2), ("a", None, "y", 1))
    made = figures(OP, rows, put, tmp_path / "out")
    assert (made["rows"], made["left_out"], made["left_out[source=y]"]) == (6, 3, 1)
    assert made["agreement"] == made["kappa"] == made["kappa.low"] == made["kappa.high"] == 1.0
    assert "agreement[source=y]" not in made


RIGHT = [1.0, 0.0, 1.0, 0.0, None, float("nan")]
KINDS = (pa.bool_(), pa.int8(), pa.int64(), pa.float32(), pa.float64())


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("other", KINDS, ids=str)
def test_numbers_and_truth_values_are_one_label(put, tmp_path, kind, other):
    """A rule that says 1.0 and a person who says true agree; neither null nor NaN is a label."""
    without = [*RIGHT[:-1], None]
    columns = [pa.array(RIGHT if pa.types.is_floating(one) else without).cast(one) for one in (kind, other)]
    rows = pa.table({"judge": columns[0], "human": columns[1]})
    out = apply(Agreement(one="judge", other="human"), put(rows), str(tmp_path / "out")).read().to_pylist()
    made = {row["metric"]: row["value"] for row in out}
    assert (made["agreement"], made["kappa"], made["rows"], made["left_out"]) == (1.0, 1.0, 4, 2)


@pytest.mark.parametrize("size", [3, 4])
def test_kappa_against_a_plain_count(size):
    table = np.random.default_rng(size).integers(0, 50, (size, size)).astype(float)
    total = table.sum()
    chance = sum(table[at].sum() * table[:, at].sum() for at in range(size)) / total**2
    plain = (table.trace() / total - chance) / (1 - chance)
    assert kappa(table.reshape(1, -1))[0] == pytest.approx(plain, abs=1e-12)


def test_an_interval_has_the_width_that_theory_gives(put, tmp_path):
    """Of 400 rows, half of which agree, 95 % of means lie within 1.96 * sqrt(0.25 / 400) = 0.049."""
    rows = labelled(("a", "a", "x", 100), ("b", "b", "x", 100), ("a", "b", "x", 100), ("b", "a", "x", 100))
    made = figures(Agreement(one="judge", other="human"), rows, put, tmp_path / "out")
    assert made["agreement.high"] - made["agreement.low"] == pytest.approx(2 * 0.049, rel=0.1)
    assert made["kappa.high"] - made["kappa.low"] == pytest.approx(4 * 0.049, rel=0.1)


def test_rows_of_a_group_are_resampled_together(put, tmp_path):
    """Ten equal rows a group say no more than one does: the interval is as wide as that of the groups alone."""
    few = labelled(("a", "a", "x", 1), ("b", "b", "x", 1), ("a", "b", "x", 1), ("b", "a", "x", 1))
    names = [f"g{at}" for at in range(80)]
    table = pa.concat_tables([few] * 20)
    table = table.set_column(2, "source", pa.array(names))
    many = pa.concat_tables([table] * 10)
    op = Agreement(one="judge", other="human", group="source")
    alone = figures(op, table, put, tmp_path / "alone")
    together = figures(op, many, put, tmp_path / "together")
    assert together["agreement.low"] == pytest.approx(alone["agreement.low"], abs=0.02)


def test_what_cannot_be_measured_is_refused(put, tmp_path):
    with pytest.raises(ConfigError, match="bad-setting"):
        Agreement(one="judge", other="judge")
    with pytest.raises(ConfigError, match="unknown-column"):
        apply(Agreement(one="judge", other="humen"), put(LABELS.conform(COHEN)), str(tmp_path / "a"))
    rows = labelled(*((f"label {at}", "a", "x", 1) for at in range(80)))
    with pytest.raises(DataError, match="too-many-labels"):
        apply(OP, put(LABELS.conform(rows)), str(tmp_path / "b"))
