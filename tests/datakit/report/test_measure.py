"""Figures of a dataset, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.label import Standardize
from datakit.report import Measure
from schemas import REWARDS, Column, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example

ROWS = Schema(
    "rows",
    1,
    (
        Column("n", pa.float64(), "numbers", nullable=True),
        Column("text", pa.string(), "no numbers"),
        Column("ids", pa.list_(pa.int32()), "lists of 0, 2 and 4"),
        Column("none", pa.float64(), "nulls alone", nullable=True),
    ),
)
TABLE = pa.table(
    {
        "n": pa.array([1.0, None, 5.0]),
        "text": ["a", "b", "c"],
        "ids": pa.array([[], [1, 2], [1, 2, 3, 4]], pa.list_(pa.int32())),
        "none": pa.array([None, None, None], pa.float64()),
    }
)
EXAMPLES = [Example(Measure(stage="some/stage", columns=("n", "ids.length")), (TABLE,))]


@pytest.fixture
def rows(tmp_path: Path) -> Dataset:
    return Dataset.from_arrow(TABLE, ROWS, str(tmp_path / "rows"))


def figures(rows: Dataset, folder: Path, *columns: str) -> dict[str, float]:
    made = apply(Measure(stage="some/stage", columns=columns), rows, str(folder / "report"), processes=1).read()
    assert set(made["stage"].to_pylist()) == {"some/stage"}
    return dict(zip(made["metric"].to_pylist(), made["value"].to_pylist(), strict=True))


def test_mean_deviation_and_count_of_each_column(rows: Dataset, tmp_path: Path) -> None:
    made = figures(rows, tmp_path, "n", "ids.length")
    assert made == {
        "n.mean": 3.0,
        "n.std": pytest.approx(8**0.5),
        "n.count": 2.0,
        "ids.length.mean": 2.0,
        "ids.length.std": 2.0,
        "ids.length.count": 3.0,
    }


def test_the_spread_is_the_one_that_label_standardize_takes(rows: Dataset, tmp_path: Path) -> None:
    """Rewards over the figures' mean and std are those that the operation measures, and numpy's with n - 1."""
    values = np.random.default_rng(3).normal(size=20)
    table = REWARDS.example(20)
    given = REWARDS.conform(table.set_column(table.column_names.index("reward"), "reward", pa.array(values)))
    dataset = Dataset.from_arrow(given, REWARDS, str(tmp_path / "rewards"))
    made = figures(dataset, tmp_path, "reward")
    ops = (Standardize(), Standardize(mean=made["reward.mean"], std=made["reward.std"]))
    scores = [apply(op, dataset, str(tmp_path / str(at))).read()["reward"].to_pylist() for at, op in enumerate(ops)]
    assert scores[0] == pytest.approx(scores[1])
    assert scores[0] == pytest.approx((values - values.mean()) / values.std(ddof=1))


def test_numbers_without_a_standard_deviation_have_a_count(tmp_path: Path) -> None:
    schema = Schema("rows", 1, (Column("n", pa.float64(), "numbers"),))
    dataset = Dataset.from_arrow(pa.table({"n": [1e200, -1e200]}), schema, str(tmp_path / "wide"))
    assert figures(dataset, tmp_path, "n") == {"n.count": 2.0}


def test_without_a_value_there_is_a_count_and_no_mean(rows: Dataset, tmp_path: Path) -> None:
    made = figures(rows, tmp_path, "none")
    assert made["none.count"] == 0.0 and "none.mean" not in made


def test_a_column_that_is_not_there_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="columns that are not there: other, more"):
        Measure(stage="s", columns=("n", "other", "more.length")).gives(ROWS)


@pytest.mark.parametrize("column", ["text", "n.length", "ids"])
def test_a_column_without_numbers_is_refused_before_anything_runs(column: str) -> None:
    with pytest.raises(ConfigError) as fault:
        Measure(stage="s", columns=(column,)).gives(ROWS)
    assert fault.value.slug == "not-a-number"


def test_no_row_has_no_figures_and_the_stage_is_named(tmp_path: Path) -> None:
    empty = Dataset.from_arrow(TABLE.slice(0, 0), ROWS, str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"nothing to measure for some/stage: .*none has no rows") as fault:
        figures(empty, tmp_path, "n", "ids.length")
    assert (fault.value.slug, fault.value.next.split()[:2]) == ("no-rows", ["quiver", "show"])
