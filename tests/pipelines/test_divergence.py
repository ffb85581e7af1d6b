"""How far a policy is from the first one: the stages by hand, in the graph where asked, and as a line of the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.catalog.ask import workspace_process
from datakit.catalog.workspace import read_workspace
from pipelines.commands.iterations import Iterations
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.recipes import RestIteration
from pipelines.report.html.blocks import Grid
from pipelines.report.html.drift import drift
from pipelines.report.html.record import RunRecord
from pipelines.report.html.reported import ReportedRun
from pipelines.stages.divergence import divergence
from schemas import REPORTS, SAMPLES, Column, Dataset, Schema
from tests.datakit.catalog.workspaces import Maker
from tests.datakit.fakes import token_model

PROMPTS, ANSWERS = [[1, 2], [3], [4, 5, 6]], [[7, 8], [9], [10, 11, 12]]
LOGPROBS = [[-0.5, -1.0], [-0.25], [-0.1, -0.2, -0.3]]
KL = Schema("query", 1, (Column("sample_id", pa.string(), "id"), Column("kl", pa.float64(), "nats")), ("sample_id",))


def samples(**columns: object) -> pa.Table:
    rows = SAMPLES.example(3)
    for name, values in columns.items():
        at = rows.column_names.index(name)
        rows = rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type))
    return rows


def test_it_is_the_mean_over_answers_of_what_the_first_policy_finds_less_likely(tmp_path: Path) -> None:
    make, plan = Maker(tmp_path), Plan(str(tmp_path))
    given = make("rows-00000001", SAMPLES, samples(prompt_ids=PROMPTS, response_ids=ANSWERS, logprobs=LOGPROBS))
    recipe = RestIteration(iteration=1).results(plan)
    node, stages = divergence(plan, "x", recipe.steps[0].evaluation.answers, recipe.task_setup.policy), []
    while isinstance(node, Table) and node is not recipe.steps[0].evaluation.answers:
        stages.append(node)
        node = node.inputs[0]
    for number, stage in enumerate(reversed(stages)):
        resources = token_model() if stage.resources else {}
        given = apply(stage.op, given, str(tmp_path / f"stage-{number}"), resources=resources)
    figures = dict(zip(*given.read(columns=["metric", "value"]).to_pydict().values(), strict=True))
    by_hand = [sum(own + token / 100 for own, token in zip(*one, strict=True)) for one in zip(LOGPROBS, ANSWERS)]  # noqa: B905
    assert figures["kl.mean"] == pytest.approx(np.mean(by_hand), abs=1e-6) and figures["kl.count"] == 3
    assert figures["tokens.mean"] == 2.0
    assert [stage.resources["model"] for stage in stages if stage.resources] == [recipe.task_setup.policy]


def test_it_is_asked_for_and_held_against_the_policy_before_all_iterations(tmp_path: Path) -> None:
    def planned(**given: bool) -> Iterations:
        return RestIteration(iteration=2, **given).results(Plan(str(tmp_path)))

    plain, asked = planned(), planned(divergence=True)
    assert [*plain.figures] == ["first", "iter=1", "iter=2"] and len(asked.targets) == len(plain.targets) + 2
    assert [*asked.figures] == ["first", "iter=1", "iter=1/divergence", "iter=2", "iter=2/divergence"]
    assert [one.task_key for one in plain.targets] == [
        one.task_key for one in asked.targets if one not in asked.figures.values() or "divergence" not in one.label
    ], "nothing else is made anew"
    for step in asked.steps:
        assert step.divergence is not None
        [read] = [one for one in step.divergence.ancestors() if one.label.endswith("divergence.first")]
        assert isinstance(read, Table) and read.resources["model"] is asked.task_setup.policy
    assert asked.without_last().figures.keys() == {"first", "iter=1", "iter=1/divergence"}
    assert asked.steps[0].divergence in asked.without_last().targets


def evaluated(make: Maker, label: str, texts: list[str], kl: float | None) -> list[Dataset]:
    rows = make(f"rest/x/{label}answers-00000001", SAMPLES, samples(response=texts), op="generate.complete")
    figures = pa.table({"stage": [label], "metric": ["response_ids.length.mean"], "value": [2.0]}, REPORTS.arrow)
    made = [rows, make(f"rest/x/{label}evaluation-00000001", REPORTS, figures, rows, op="report.measure")]
    if kl is not None:
        distances = pa.table({"sample_id": ["a", "b"], "kl": [kl, kl]}, schema=KL.arrow)
        made.append(make(f"rest/x/{label}divergence.rows-00000001", KL, distances, rows, op="sql.query"))
        metrics = {"stage": [label] * 2, "metric": ["kl.mean", "tokens.mean"], "value": [kl, 4.0]}
        table = pa.table(metrics, REPORTS.arrow)
        made.append(make(f"rest/x/{label}divergence-00000001", REPORTS, table, made[-1], op="report.measure"))
    return made


def test_drift_has_distinct_words_and_the_distance_from_the_first_policy(tmp_path: Path) -> None:
    make = Maker(tmp_path)
    places = evaluated(make, "first.", ["One two, one TWO", "", "three"], None)
    places += evaluated(make, "iter=1/", ["one one one", "one one", "Ünë ünë"], 0.5)
    places += evaluated(make, "iter=2/", ["...", "", "one"], 2.0)
    record = RunRecord(
        task="x", results=tuple(Path(one.url).relative_to(tmp_path).as_posix() for one in places), environment={}
    )
    with workspace_process(str(tmp_path)) as process:
        section = drift(ReportedRun(read_workspace(str(tmp_path)), record, process))
    assert section is not None
    grid = section.blocks[-1]
    assert isinstance(grid, Grid) and grid.columns == ("", "first", "1", "2")
    shown = {figure: values for figure, *values in grid.rows}
    assert shown["distinct words"] == ["60.0%", "28.6%", "100.0%"]
    assert shown["distinct pairs of words"] == ["66.7%", "50.0%", "-"]
    assert shown["KL to the first policy in nats"] == ["0", "0.5", "2"]
    assert shown["KL to the first policy in nats, by token"] == ["0", "0.125", "0.5"]
