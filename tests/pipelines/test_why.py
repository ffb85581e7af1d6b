"""Why a stage runs, against results that lie there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from datakit.apply import apply
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.graph.why import differences, newest_sibling, why
from schemas.dataset import Dataset
from tests.pipelines.toy import Above, Count, Draw


def chain(plan: Plan, *, rows: int = 20, minimum: float = 0.0, seed: int = 7) -> tuple[Table, Table, Table]:
    counted = plan.table("toy/counted", Count(rows=rows))
    drawn = plan.table("toy/drawn", Draw(), counted, seed=seed)
    return counted, drawn, plan.table("toy/kept", Above(minimum=minimum), drawn)


def make(*nodes: Table) -> None:
    for node in nodes:
        inputs = [Dataset.open(one.url) for one in node.inputs]
        apply(node.op, inputs, node.url, seed=node.seed, task_key=node.task_key, processes=1)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A root below which the chain was made once."""
    plan = Plan(str(tmp_path))
    make(*chain(plan))
    return plan


def test_the_first_result_of_a_label_is_made_for_the_first_time(tmp_path: Path) -> None:
    assert why(chain(Plan(str(tmp_path)))[0]) == "first time"


@pytest.mark.parametrize(
    ("changed", "causes"),
    [
        ({"rows": 30}, ["rows 20 -> 30", "another counted", "another drawn"]),
        ({"seed": 8}, ["gone from its place", "seed 7 -> 8", "another drawn"]),
        ({"minimum": 0.5}, ["gone from its place", "gone from its place", "minimum 0.0 -> 0.5"]),
    ],
    ids=str,
)
def test_what_is_different_is_named_at_every_stage(plan: Plan, changed: dict[str, int], causes: list[str]) -> None:
    nodes = chain(plan, **changed)
    before = [one.manifest() for one in chain(plan)]
    shown = [", ".join(differences(*pair)) or "gone from its place" for pair in zip(nodes, before, strict=True)]
    assert shown == causes


def test_a_number_that_is_only_written_otherwise_is_no_difference(plan: Plan) -> None:
    _, drawn, kept = chain(plan)
    other: Node = plan.table("toy/kept", Above(minimum=0), drawn)
    assert list(differences(other, kept.manifest())) == []


def test_another_operation_is_named(plan: Plan) -> None:
    counted, _, kept = chain(plan)
    assert next(differences(counted, kept.manifest())) == "toy.above -> toy.count"


def test_the_newest_of_several_results_is_what_a_stage_is_held_against(plan: Plan) -> None:
    time.sleep(1.1)  # manifests name the second in which they were made
    make(chain(plan, minimum=0.25)[2])
    wanted = chain(plan, minimum=0.5)[2]
    newest = newest_sibling(wanted)
    assert newest is not None and newest.op["params"]["minimum"] == 0.25
    assert why(wanted) == "minimum 0.25 -> 0.5"


def test_a_result_that_cannot_be_read_is_passed_over(plan: Plan) -> None:
    torn = chain(plan, minimum=0.25)[2]
    Path(torn.url).mkdir()
    Path(torn.url, "_manifest.json").write_text("{")
    assert why(chain(plan, minimum=0.5)[2]) == "minimum 0.0 -> 0.5"
