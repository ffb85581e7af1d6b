"""What Luigi's own page shows of a run: stages by their names, how far they are, where the page of figures lies."""

from __future__ import annotations

import json
from pathlib import Path

import luigi
import pytest
from luigi.rpc import RPCError
from luigi.scheduler import Scheduler
from luigi.worker import Worker

from pipelines.cli.console import Stage
from pipelines.commands.recipe import Recipe
from pipelines.graph.plan import Plan
from pipelines.graph.results import Results
from pipelines.makers.training import Resumption, _Follower
from pipelines.runtime.tasks import Make, task_of
from tests.pipelines.toy import Count, Draw

Moves = list[tuple[str, float | None]]


def test_a_stage_has_its_label_its_operation_and_its_progress(tmp_path: Path) -> None:
    plan = Plan(str(tmp_path))
    rewards = plan.table("toy/rewards", Draw(), plan.table("toy/numbers", Count(rows=8)))
    scheduler = Scheduler()
    with Worker(scheduler=scheduler) as worker:
        worker.add(task_of(rewards))
        assert worker.run()
    shown = {task["name"]: task for task in scheduler.task_list("", "").values()}
    assert {*shown} == {f"{Draw.name}: toy/rewards", f"{Count.name}: toy/numbers"}
    made = shown[f"{Count.name}: toy/numbers"]
    assert (made["status"], made["status_message"], made["progress_percentage"]) == ("DONE", "8 rows", 100)


def test_a_training_tells_its_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics, moves = tmp_path / "metrics.jsonl", Moves()
    metrics.write_text("")
    with Stage("policy", "train.sft", lambda text, share: moves.append((text, share))) as stage:
        follow = _Follower(metrics, 8, stage, Resumption("policy", tmp_path / "log", 0))
        follow()
        metrics.write_text(json.dumps({"step": 2, "loss": 0.5, "seconds": 1.0, "tokens": 10}) + "\n")
        follow()
        stage.done("8 steps, loss 0.2500")
    assert [share for _, share in moves] == [0.25, 1.0]
    assert moves[0][0].startswith("step 2 of 8, loss 0.5000") and moves[1][0] == "8 steps, loss 0.2500"


def test_a_scheduler_that_is_gone_ends_no_stage(tmp_path: Path) -> None:
    task, asked = task_of(Plan(str(tmp_path)).table("toy/numbers", Count(rows=8))), []

    def gone(text: str) -> None:
        asked.append(text)
        raise RPCError("gone")

    task.set_status_message, task.set_progress_percentage = gone, gone
    task.tell("1 row", 0.5)
    task.tell("2 rows", 0.6)
    assert asked == ["1 row"], "it is not waited for again"


def test_a_task_of_its_key_alone_has_the_name_of_its_kind() -> None:
    assert Make(label="a", task_key="b").task_family == "Make"


def test_a_recipe_links_to_its_page(tmp_path: Path) -> None:
    class Toy(Recipe[Results]):
        def results(self, plan: Plan) -> Results:
            return Results.of([Plan(str(tmp_path)).table("toy/x/iter=1/numbers", Count(rows=8))])

        def report(self) -> list[object]:  # type: ignore[override]
            return []

    recipe, shown = Toy(), {}
    recipe.set_tracking_url = lambda url: shown.update(url=url)
    recipe.set_status_message = lambda text: shown.update(text=text)
    recipe.run()
    key = recipe.targets[-1].task_key[:8]
    assert shown["url"] == f"file://{tmp_path}/toy/x/report-{key}.html"
    assert shown["text"].startswith("page ") and shown["text"].endswith(f"toy/x/report-{key}.html")
    luigi.task_register.Register._reg.remove(Toy)
