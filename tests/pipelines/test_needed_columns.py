"""Rows that lack a column are refused as the graph is made, by every operation, with the command that makes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, get_args

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.op import Capability, Read
from datakit.report import Measure
from datakit.sql import Query
from pipelines.commands import stages
from pipelines.graph import backend
from pipelines.graph.backend import Backend, Placement, Role
from pipelines.graph.external import ExternalModel
from pipelines.graph.node import GraphBuilder, Node
from pipelines.graph.nodes import Existing
from pipelines.graph.plan import Plan
from schemas import Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError, QuiverError
from schemas.manifest import Manifest
from tests.datakit.fakes import Example
from tests.datakit.test_every_op import CASES

_READS: dict[str, Schema] = {}
"""What the stand-in models read, by their label."""


class StandIn(Backend):
    """Any model, which reads what is said of it in `_READS`."""

    kind: ClassVar[str] = "stand-in"
    form: ClassVar[str] = "a stand-in"
    example: ClassVar[str] = "stand-in:x"
    schemes: ClassVar[tuple[str, ...]] = ("stand-in",)
    roles: ClassVar[Mapping[Role, frozenset[Capability]]] = {
        role: frozenset(get_args(Capability)) for role in get_args(Role)
    }

    def node(self, plan: GraphBuilder, reference: str) -> Node:
        raise AssertionError(reference)

    def takes(self, node: Node, role: Role, rows: Schema) -> Schema:
        return _READS[node.label]

    def open(self, url: str, role: Role, takes: Schema, placement: Placement) -> object:
        raise AssertionError(url)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backend._BACKENDS, "stand-in", StandIn())


def planned(example: Example, schemas: Sequence[Schema]) -> None:
    """Make the graph of the example's operation over rows of these schemas, of which none are there."""
    resources: dict[str, Node] = {}
    for name, resource in example.resources.items():
        manifest = Manifest(kind="checkpoint", task_key="0" * 64)
        resources[name] = Existing(label=name, root="data", place="nowhere", existing_manifest=manifest)
        if name != "tokenizer":
            _READS[name] = resource.takes
            identity = {"name": name, "version": 1, "params": {}}
            resources[name] = ExternalModel(
                label=name, root="data", reference=name, backend="stand-in", identity=identity
            )
    inputs = [
        Existing(label=f"rows-{number}", root="data", place="rows", existing_manifest=Manifest(schema=schema))
        for number, schema in enumerate(schemas)
    ]
    Plan("data").table("result", example.op, *inputs, **resources)


def refusal(example: Example, schemas: Sequence[Schema], names: Sequence[str]) -> QuiverError | None:
    """Why the graph over rows without these columns cannot be made; None where it can."""
    try:
        planned(example, [schema.dropping(*names) for schema in schemas])
    except QuiverError as error:
        return error
    return None


WITH_ROWS = [case for case in CASES if not isinstance(case.values[0].op, Read)]  # type: ignore[attr-defined]
MEASURED = pa.table({"n": pa.array([1, 2]), "ids": pa.array([[1], [2, 3]]), "more": ["a", "b"]})
WITH_ROWS.append(pytest.param(Example(Measure(stage="s", columns=("n", "ids.length")), (MEASURED,)), id="measure"))


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("example", WITH_ROWS)
def test_a_column_that_planning_does_not_ask_for_is_not_needed(example: Example, tmp_path: Path) -> None:
    """Each column is left out: the graph is refused, or the operation does its work without."""
    tables = example.inputs()
    schemas = [Schema.of_arrow(table.schema) for table in tables]
    assert refusal(example, schemas, []) is None
    spare = []
    for name in dict.fromkeys(name for schema in schemas for name in schema.names):
        error = refusal(example, schemas, [name])
        if error is None:
            spare.append([name])
            continue
        assert error.code in (2, 10) and error.kept == "nothing was started", error.render()
        assert name in error.what, error.render()
    together = [name for names in spare for name in names]
    if all(len(set(schema.names) - set(together)) for schema in schemas) and not refusal(example, schemas, together):
        spare = [together]
    for number, names in enumerate(spare):
        given = []
        for place, (table, schema) in enumerate(zip(tables, schemas, strict=True)):
            rows = table.drop_columns([name for name in names if name in table.column_names])
            given.append(Dataset.from_arrow(rows, schema.dropping(*names), str(tmp_path / f"{number}-{place}")))
        apply(example.op, given, str(tmp_path / f"out-{number}"), resources=example.resources)


def test_some_columns_are_needed() -> None:
    assert len(WITH_ROWS) > 30


@pytest.fixture
def answers(place: Path) -> Path:
    row = {"prompt": "q", "response": "a", "reward": 0.5}
    (place / "rewarded.jsonl").write_text(json.dumps(row) + "\n")
    (place / "rewarded.csv").write_text("prompt,response,reward\nq,a,0.5\n")
    (place / "rows.csv").write_text("prompt,response\nq,a\n")
    return place


LABEL = "luigi --module pipelines Label --op reward --model CHECKPOINT --data"


OPS = {"threshold": {"minimum_quantile": 0.5}, "where": {"predicate": "reward > 0"}, "best_of": {}}


@pytest.mark.parametrize("file", ["rows.jsonl", "rows.csv"])
def test_files_without_rewards_are_not_read_as_if_they_had_them(answers: Path, file: str) -> None:
    for op, params in OPS.items():
        with pytest.raises(QuiverError, match=r"reward|sample_index") as fault:
            stages.Filter(data=file, op=op, params=params).build(Plan("data"))
        assert fault.value.next == f"{LABEL} {file}" or op == "best_of", fault.value.render()
        assert fault.value.kept == "nothing was started"
    rewarded = f"rewarded{Path(file).suffix}"
    [kept] = stages.Filter(data=rewarded, op="threshold", params={"minimum": 0}).build(Plan("data"))
    assert kept.parents["input"].work["params"]["format"] == "rewarded"
    [kept] = stages.Filter(data=file, op="dedup_exact", params={"columns": ["response"]}).build(Plan("data"))
    assert kept.parents["input"].work["params"]["format"] == "completions"
    assert not (answers / "data").exists()


def test_rows_that_are_there_are_refused_with_the_command_that_labels_them(answers: Path) -> None:
    Dataset.from_arrow(pa.table({"prompt_id": ["a"], "response": ["b"]}), _ANSWERED, "answered")
    with pytest.raises(ConfigError, match="columns that are not there: reward") as fault:
        stages.Filter(data="answered", op="threshold", params={"minimum": 0}).build(Plan("data"))
    assert fault.value.next == f"{LABEL} {answers / 'answered'}"
    plan = Plan("data")
    query = Query(query="SELECT response, reward FROM rows", tables=("rows",))
    with pytest.raises(ConfigError, match="cannot be bound") as fault:
        plan.table("rows", query, plan.existing("answered", "dataset"))
    assert fault.value.next == f"{LABEL} {answers / 'answered'}"


_ANSWERED = Schema.of_arrow(pa.schema([("prompt_id", pa.string()), ("response", pa.string())]))
