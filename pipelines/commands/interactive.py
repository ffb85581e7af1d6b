"""Recipes and stages from Python, in a notebook for example.

    result = pipelines.run("RestIteration", iteration=1, thresholds=[0.5], digits_held_out=64)
    result.datasets["samples"].read()
    result.checkpoints["policy"]
    result.figures["iter=1"]["reward.mean"]

Settings are the flags of the command line with underscores: those of the task, of sections (`quiver_root`) and of Luigi
(`workers`). A run that is interrupted leaves every finished stage, and the process as it was: run it again to go on.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import luigi

from pipelines.cli.flag_words import parameters_of, words_of
from pipelines.commands.command import Command
from pipelines.commands.recipe import Recipe
from pipelines.graph.results import Results
from pipelines.report.figures import FigureTable, metrics
from pipelines.report.table import text
from pipelines.runtime.command import execute
from schemas.dataset import Dataset


class Datasets(Mapping[str, Dataset]):
    """Datasets by name, each opened when it is asked for."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self.places = dict(places)

    def __getitem__(self, name: str) -> Dataset:
        return Dataset.open(self.places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True, repr=False)
class RunResult:
    """What a run made: datasets and folders of checkpoints, metrics of evaluations, and tables of figures, by name."""

    datasets: Datasets
    checkpoints: Mapping[str, str]
    figures: Mapping[str, Mapping[str, float]]
    tables: tuple[FigureTable, ...] = ()

    def __repr__(self) -> str:
        places = {**self.datasets.places, **self.checkpoints}
        lines = [f"{name:<20} {place}" for name, place in places.items()]
        return "\n\n".join([*(text(table) for table in self.tables if table.rows), "\n".join(lines)])


def run(task: str, **settings: Any) -> RunResult:
    """Run the recipe or stage `task` with these settings, and return what it made; what is there already is reused.

    Raises the `QuiverError` of what went wrong, and `KeyboardInterrupt` where it is interrupted. A run may be in any
    thread, one at a time.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(1)  # a worker that imports a script without a `__main__` guard: whoever started it says so
    flags = parameters_of(task)
    words = [word for name, value in settings.items() for word in words_of(task, flags, name, value)]
    return execute(["--module", "pipelines", task, *words], lambda made, _: _result(made))


def _result(task: luigi.Task) -> RunResult:
    assert isinstance(task, Command)
    results = task.graph if isinstance(task, Recipe) else Results.of(task.targets)
    return RunResult(
        Datasets({name: node.url for name, node in results.datasets.items()}),
        {name: node.url for name, node in results.checkpoints.items()},
        {name: metrics(node) for name, node in results.figures.items()},
        tuple(task.report()) if isinstance(task, Recipe) else (),
    )
