"""Figures as data, and the same as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.graph.plan import Plan
from pipelines.report.figures import Figure, FigureTable, manifest_of
from pipelines.report.table import text
from schemas.errors import IntegrityError
from tests.pipelines.toy import Count

TABLE = FigureTable(
    "two iterations",
    (Figure("iteration"), Figure("kept", ","), Figure("reward", "+.2f", " -> "), Figure("judge")),
    ((1, (1200, 30), (-0.5, 1.25), "rm"), (2, (7,), (None, 2.0), "rm")),
)


def test_a_table_as_text() -> None:
    assert text(TABLE).splitlines() == [
        "two iterations",
        "iteration       kept          reward  judge",
        "---------  ---------  --------------  -----",
        "        1  1,200, 30  -0.50 -> +1.25     rm",
        "        2          7      - -> +2.00     rm",
    ]


def test_a_table_as_records() -> None:
    first, second = TABLE.records()
    assert first == {"iteration": 1, "kept": (1200, 30), "reward": (-0.5, 1.25), "judge": "rm"}
    assert second["reward"] == (None, 2.0)


def test_figures_of_a_removed_dataset_are_said_to_be_gone(tmp_path: Path) -> None:
    node = Plan(str(tmp_path)).table("numbers", Count(rows=3))
    with pytest.raises(IntegrityError, match="numbers is gone") as fault:
        manifest_of(node)
    assert fault.value.slug == "result-gone" and fault.value.where == node.url
