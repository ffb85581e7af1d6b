"""docs/reference.md is what the code says today."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from datakit.registry import OPS
from quiver import reference
from trainers.registry import algorithms

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference.md"


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference.page(), "stale: run `make docs`"


def test_every_setting_of_every_operation_and_algorithm_stands_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    kinds = {**OPS, **{name: algorithm.settings for name, algorithm in algorithms().items()}}
    for name, kind in kinds.items():
        part = text.split(f"### {name}\n")[1].split("\n### ")[0]
        missing = [field.name for field in dataclasses.fields(kind) if f"| {field.name} | " not in part]
        assert not missing, f"{name}: {missing}"
