"""Rows are counted before any work where a file is small: as many as there are when it is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datakit.apply import apply
from datakit.blend import Shuffle
from datakit.io import Reversal
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import rows_at
from pipelines.graph.row_counts import fewer_than
from pipelines.setups.setup_config import held_apart
from schemas.dataset import Dataset


def made(node: Node) -> int:
    """Rows of a table once it and all that it is made of are there."""
    for one in node.ancestors():
        if isinstance(one, Table) and one.manifest() is None:
            places = [Dataset.open(given.url) for given in one.inputs]
            apply(one.op, places, one.url, seed=one.seed, task_key=one.task_key, processes=1)
    return Dataset.open(node.url).num_rows


@pytest.mark.parametrize(("prompts", "share"), [(2, 0.1), (9, 0.1), (40, 0.3)])
def test_a_part_of_a_small_file_is_counted_as_it_will_be(prompts: int, share: float, tmp_path: Path) -> None:
    file, plan = tmp_path / "prompts.jsonl", Plan(str(tmp_path / "data"))
    file.write_text("".join(json.dumps({"prompt": f"Say {n}."}) + "\n" for n in range(prompts)))
    rows = rows_at(plan, str(file), "prompts")
    assert (fewer_than(prompts, rows), fewer_than(prompts + 1, rows)) == (None, prompts)
    for part in held_apart(plan, "parts/", rows, share, 3, key="messages"):
        shuffled = plan.table("shuffled", Shuffle(), part, seed=1)
        counts = [fewer_than(1000, node) for node in (part, shuffled)]
        assert counts == [made(shuffled)] * 2 and counts == [fewer_than(1000, node) for node in (part, shuffled)]


def test_what_is_not_known_before_any_work_is_not_counted(tmp_path: Path) -> None:
    plan = Plan(str(tmp_path / "data"))
    many = plan.table("many", Reversal(rows=20_000, output="prompts"))
    assert fewer_than(64, many) is None, "more than enough are not read"
    [train, _] = held_apart(plan, "one/", plan.table("one", Reversal(rows=1, output="prompts")), 0.1, 3)
    assert fewer_than(64, train) is None, "a split that will fail says so itself"
