"""Rows that come go through; where none comes, a few are made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from datakit.apply import apply
from datakit.preview import MadeUp
from schemas import PREFERENCES, Dataset
from schemas.errors import ConfigError


def test_rows_that_come_are_as_they_were(tmp_path: Path) -> None:
    given = Dataset.from_arrow(PREFERENCES.example(5), PREFERENCES, str(tmp_path / "given"))
    made = apply(MadeUp(), given, str(tmp_path / "made"), processes=0)
    assert made.read().equals(given.read()) and "rows.made-up" not in made.manifest.stats.get("counts", {})


def test_where_none_comes_a_few_are_made_up(tmp_path: Path) -> None:
    """Of other keys each, so that they can be split."""
    given = Dataset.from_arrow(PREFERENCES.empty(), PREFERENCES, str(tmp_path / "given"))
    made = apply(MadeUp(rows=3), given, str(tmp_path / "made"), processes=0)
    assert made.num_rows == 3 and len(set(made.read()["prompt_id"].to_pylist())) == 3
    assert made.manifest.stats["counts"]["rows.made-up"] == 3


def test_there_is_one_at_least() -> None:
    with pytest.raises(ConfigError, match="rows 0"):
        MadeUp(rows=0)
