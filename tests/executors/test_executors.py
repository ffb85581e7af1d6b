"""Which executor a stage gets, what it asks a Ray cluster for, and what is refused; without Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datakit.apply import apply
from datakit.label import Length
from datakit.run.on_ray import OnRay
from datakit.run.progress import Progress
from datakit.run.ray_cluster import connected
from datakit.run.runner import Local
from pipelines.graph.nodes import Table
from pipelines.graph.placement import Placement
from pipelines.runtime import executors
from schemas import PROMPTS
from schemas.errors import ConfigError, ServiceError
from tests.executors.program import put


def cluster(*nodes: dict[str, float]) -> Any:
    """Ray, as far as the room on its nodes goes; the last one is dead."""
    alive = [{"Alive": True, "Resources": node} for node in nodes]
    return SimpleNamespace(nodes=lambda: [*alive, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}])


CPUS = ({"CPU": 4.0}, {"CPU": 8.0}, {"memory": 1.0})
GPUS = ({"CPU": 16.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0})


@pytest.mark.parametrize(
    ("executor", "nodes", "tasks", "workers", "cpus", "gpus"),
    [
        (OnRay(), CPUS, 1000, 12, 1, 0),
        (OnRay(), CPUS, 3, 3, 4, 0),  # few pieces share the cores
        (OnRay(), CPUS, 1, 1, 8, 0),  # no worker is larger than a node
        (OnRay(processes=5), CPUS, 1000, 5, 2, 0),
        (OnRay(processes=99), CPUS, 1000, 12, 1, 0),
        (OnRay(most=1), CPUS, 1000, 1, 8, 0),
        (OnRay(gpus=2), CPUS, 1000, 12, 1, 0),  # no GPU anywhere
        (OnRay(gpus=1), GPUS, 1000, 7, 4, 1),
        (OnRay(gpus=2), GPUS, 1000, 3, 10, 2),  # 4 // 2 + 3 // 2
        (OnRay(gpus=8), GPUS, 1000, 1, 16, 4),  # all of the largest node
        (OnRay(gpus=1, most=2), GPUS, 1000, 2, 16, 1),
    ],
)
def test_workers_fit_the_cluster(
    executor: OnRay, nodes: tuple[dict[str, float], ...], tasks: int, workers: int, cpus: int, gpus: int
) -> None:
    assert executor._room(cluster(*nodes), tasks) == (workers, {"num_cpus": cpus, "num_gpus": gpus})


@pytest.mark.parametrize(
    ("placements", "most", "gpus"),
    [
        ([], None, 0),
        ([Placement(gpus=2)], None, 2),
        ([Placement(gpus=1, workers=3), Placement(gpus=4, workers=2)], 2, 4),
        ([Placement(inside=False, concurrency=64)], 1, 0),
    ],
)
def test_models_are_placed_on_ray_by_what_their_backend_declares(
    placements: list[Placement], most: int | None, gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = SimpleNamespace(executor="ray", ray_address="head:6379", processes=8, workers=8)
    monkeypatch.setattr(executors.settings, "quiver_config", lambda: section)
    monkeypatch.setattr(executors, "placements_of", lambda node: placements)
    node: Any = object.__new__(Table)
    assert executors.executor_of(node) == OnRay("head:6379", processes=8, most=most, gpus=gpus)
    section.executor = "local"
    monkeypatch.setattr(executors, "workers_of", lambda node, processes: (processes, ()))
    assert executors.executor_of(node) == Local(8)


def test_without_ray_a_stage_is_refused_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    given, out = put(PROMPTS.example(4), str(tmp_path / "given"), 2), tmp_path / "out"
    with pytest.raises(ConfigError, match=r"missing-library(.|\n)*next: \S*pip install \S*.*\[ray\]"):
        apply(Length(column="prompt_id"), given, str(out), executor=OnRay())
    assert not list(out.glob("*"))


@pytest.mark.parametrize(
    ("address", "kind", "match"),
    [
        ("ray://head:10001", ConfigError, "ray-address"),
        ("head", ConfigError, "ray-address"),
        ("127.0.0.1:1", ServiceError, r"no-ray(.|\n)*leave the address out"),
        ("127.0.0.1:99999", ServiceError, "no-ray"),
    ],
)
def test_an_address_that_is_none_or_where_nobody_answers_is_refused_at_once(
    address: str, kind: type[Exception], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    with pytest.raises(kind, match=match), connected(address):
        raise AssertionError("nobody answers there")


def test_ray_is_imported_by_nobody_who_does_not_ask_for_it() -> None:
    code = (
        "import sys, pipelines, datakit.apply, datakit.run.on_ray, pipelines.runtime.executors\n"
        "print('ray' in sys.modules, 'datakit.run.on_ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"


def test_lost_workers_are_counted_in_the_progress() -> None:
    assert str(Progress("op", 5, 10, 1.0, lost=1)) == "op: 5 of 10 rows, 5 rows/s, 1 s left, 1 lost worker replaced"
    assert "lost" not in str(Progress("op", 5, 10, 1.0))
