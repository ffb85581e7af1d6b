"""Planning many iterations: work in proportion to their number, counted in calls, and no deep stack."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import luigi
import pytest
from luigi.cmdline_parser import CmdlineParser
from luigi.scheduler import Scheduler
from luigi.task_register import Register
from luigi.worker import Worker

import pipelines  # noqa: F401
from pipelines.commands.command import outstanding


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], int]:
    """Plan that many iterations and hand them to a scheduler of Luigi's; returns how many tasks it knows then."""
    monkeypatch.chdir(tmp_path)

    def planned(iterations: int) -> int:
        Register.clear_instance_cache()
        words = ["--module", "pipelines", "RestIteration", "--iteration", str(iterations)]
        words += ["--prompts-per-iteration", "8"]
        with CmdlineParser.global_instance(words) as parser:
            task: Any = parser.get_task_obj()
            todo, _ = outstanding(task.targets)
            worker = Worker(Scheduler(), worker_id="planning")
            assert worker.add(task)
        kinds = {type(one) for one in worker._scheduled_tasks.values()}
        assert all(issubclass(kind, luigi.Task) for kind in kinds)
        assert len(worker._scheduled_tasks) == len(todo) + iterations
        return len(todo)

    return planned


def calls(work: Callable[[], object]) -> int:
    """Calls of Python functions while `work` runs."""
    count = 0

    def event(frame: object, kind: str, argument: object) -> None:
        nonlocal count
        count += kind == "call"

    sys.setprofile(event)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_planning_costs_in_proportion_to_the_iterations(add: Callable[[int], int]) -> None:
    add(1)
    few, many = calls(lambda: add(20)), calls(lambda: add(40))
    assert many / few < 2.1


def test_a_hundred_iterations_are_planned_without_a_deep_stack(add: Callable[[int], int]) -> None:
    each = add(2) - add(1)
    assert each * 100 > sys.getrecursionlimit()
    assert add(100) == add(1) + 99 * each
