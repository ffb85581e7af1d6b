"""Recipes and stages from Python, in a notebook for example.

    result = pipelines.run("RestIteration", iteration=1, thresholds=[0.5], digits_held_out=64)
    result.datasets["samples"].read()
    result.checkpoints["policy"]
    result.figures["iter=1"]["reward.mean"]

Settings are the flags of the command line with underscores: those of the task, of sections (`quiver_root`) and of Luigi
(`workers`). A run that is interrupted leaves every finished stage, and the process as it was: run it again to go on.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import luigi
from luigi.freezing import recursively_unfreeze
from luigi.task_register import Register

from pipelines.commands.command import Command
from pipelines.commands.recipe import Recipe
from pipelines.graph.results import Results
from pipelines.report.figures import FigureTable, metrics
from pipelines.report.table import text
from pipelines.runtime.command import execute
from pipelines.runtime.known_commands import commands
from pipelines.runtime.parameters import AssignmentsParameter, older_names
from schemas.dataset import Dataset
from schemas.errors import ConfigError, printable
from schemas.settings import suggestion


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
    flags = _parameters(task)
    words = [word for name, value in settings.items() for word in _words(task, flags, name, value)]
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


def _parameters(task: str) -> dict[str, luigi.Parameter[Any]]:
    """What may be set for `task`, by the name of the flag with underscores."""
    kinds = {name: kind for name, kind in Register._get_reg().items() if isinstance(kind, type)}
    known = list(commands())
    if task not in known:
        raise ConfigError(
            "unknown-task",
            f"there is no task {printable(task)}{suggestion(str(task), known)}",
            expected=", ".join(known),
            kept="nothing was started",
        )
    flags: dict[str, luigi.Parameter[Any]] = {}
    for owner, is_without_section, name, parameter in Register.get_all_params():
        if owner == task or is_without_section:
            flags[name] = parameter
        if issubclass(kinds.get(owner, object), luigi.Config):
            flags[f"{owner}_{name}"] = parameter
    return flags | {older: flags[name] for older, name in older_names(kinds[task]).items()}


def _words(task: str, flags: Mapping[str, luigi.Parameter[Any]], name: str, value: Any) -> list[str]:
    """The setting as words of a command line."""
    if name not in flags:
        raise ConfigError(
            "unknown-parameter",
            f"{task} has no parameter {printable(name)}{suggestion(name, list(flags))}",
            kept="nothing was started",
            next=f"luigi --module pipelines {task} --help",
        )
    flag, parameter = f"--{name.replace('_', '-')}", flags[name]
    if isinstance(parameter, luigi.BoolParameter) and parameter.parsing == luigi.BoolParameter.IMPLICIT_PARSING:
        return [flag] if value else []
    if isinstance(parameter, AssignmentsParameter):
        return [f"{flag}={one}" for one in _assignments(name, value)]
    if isinstance(value, Mapping | list | tuple) and isinstance(parameter, luigi.DictParameter | luigi.ListParameter):
        return [f"{flag}={_json(name, recursively_unfreeze(value))}"]
    if isinstance(value, list | tuple):
        return [f"{flag}={','.join(map(str, value))}"]
    if isinstance(value, Mapping | set | frozenset | bytes):
        raise _wrong(name, value, "a text, a number, or a list of texts")
    return [f"{flag}={'' if value is None else value}"]


def _assignments(name: str, value: Any) -> list[str]:
    """Texts `key=value` of one, of several, or of a mapping."""
    if isinstance(value, Mapping):
        return [f"{key}={_json(name, one)}" for key, one in value.items()]
    if value is None or isinstance(value, str):
        return [value] if value else []
    if not isinstance(value, list | tuple):
        raise _wrong(name, value, "texts such as 'optim.lr=1e-4', or a mapping of keys to values")
    return [str(one) for one in value]


def _json(name: str, value: Any) -> str:
    """JSON of a Python value, of numpy's numbers and of paths too."""

    def plain(one: Any) -> Any:
        if isinstance(one, os.PathLike):
            return os.fspath(one)
        if hasattr(one, "item"):
            return one.item()
        raise TypeError

    try:
        return json.dumps(value, default=plain)
    except (TypeError, ValueError, RecursionError):
        raise _wrong(name, value, "a value that JSON can hold") from None


def _wrong(name: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(
        "bad-parameter",
        f"{name}: {printable(repr(value))} cannot be handed on",
        expected=expected,
        found=f"a {type(value).__name__}",
        kept="nothing was started",
    )
