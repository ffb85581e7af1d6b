"""Recipes and stages from Python, in a notebook for example.

    result = pipelines.run("RestIteration", iteration=1, thresholds=[0.5], digits_held_out=64)
    result.datasets["samples"].read()
    result.checkpoints["policy"]
    result.figures["iter=1"]["reward.mean"]
    good = pipelines.commit("SELECT * FROM self WHERE reward > 1", result.datasets["samples"], name="curated/good")

Settings are the flags of the command line with underscores: those of the task, of sections (`quiver_root`) and of Luigi
(`workers`). A run that is interrupted leaves every finished stage, and the process as it was: run it again to go on.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import luigi
import pyarrow as pa

from datakit.duck.messages import corrected
from datakit.label.human import BAD, EDITED, GOOD
from pipelines.cli.flag_words import parameters_of, words_of
from pipelines.cli.invocation import flag_of
from pipelines.commands.command import Command
from pipelines.commands.curation import NO_KEY, SELF
from pipelines.commands.recipe import Recipe
from pipelines.graph.results import Results
from pipelines.report.figures import FigureTable, metrics
from pipelines.report.table import text
from pipelines.runtime import settings
from pipelines.runtime.command import execute
from schemas import MARKS
from schemas.canonical import json_digest
from schemas.dataset import Dataset
from schemas.errors import ConfigError


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
    for name in ("dry_run", "preview"):
        if settings.get(name):
            raise ConfigError(
                "bad-parameter",
                f"{name} is of the command line: nothing stays that could be returned",
                kept="nothing was started",
                next=f"quiver {task} {flag_of(name)}",
            )
    flags = parameters_of(task)
    words = [word for name, value in settings.items() for word in words_of(task, flags, name, value)]
    return execute(["--module", "pipelines", task, *words], lambda made, _: _result(made))


def commit(
    query: str,
    data: Dataset | str | None = None,
    /,
    *,
    name: str,
    kind: str = "",
    key: Sequence[str] | None = None,
    root: str = "",
    **tables: Dataset | str,
) -> Dataset:
    """The rows of one SELECT as a new dataset called `name`, with lineage: what the command `Query` makes.

    `query` reads `data` as the table `self` and others by their keywords, as `Dataset.sql` does; each is a dataset, its
    folder, or its name in `quiver ls`. `kind` and `key` are taken over from the first where its columns come out (`key`
    `()`: none). It lies below `root`, or where all data lies.

    Raises `ConfigError` for a query that cannot be bound or may not run, before any work; `DataError` where rows fail.
    """
    given: dict[str, Dataset | str] = ({} if data is None else {SELF: data}) | tables
    places = [one.url if isinstance(one, Dataset) else one for one in given.values()]
    keyed = "" if key is None else ",".join(key) or NO_KEY
    asked = {"quiver_root": root} if root else {}
    try:
        result = run("Query", query=query, name=name, data=places, tables=[*given], kind=kind, key=keyed, **asked)
    except ConfigError as fault:
        if fault.slug == "query" and fault.wrong and (right := corrected(query, fault.wrong[0], fault.nearest)):
            fault.next = f"pipelines.commit({right!r}, ...)"
        raise
    [made] = result.datasets.values()
    return made


def mark(
    data: Dataset | str,
    marks: Dataset | str | os.PathLike[str] | None = None,
    /,
    *,
    name: str,
    good: Sequence[str] = (),
    bad: Sequence[str] = (),
    edited: Mapping[str, str] | None = None,
    root: str = "",
) -> Dataset:
    """The samples of `data` that a person marked, as a dataset called `name`: what the command `Mark` makes.

    `marks` is a dataset or a file (a sheet with sample_id, mark and edited); or the ids of `good` and `bad` answers and
    the `edited` ones, each with the answer as it should be, stand here, and lie beside the result as a dataset.

    Marks that cannot be are among its rejected rows (`label.human`). `DataError` where none is on one of these samples.
    """
    asked = {"quiver_root": root} if root else {}
    if marks is None:
        marks = _marks_of(good, bad, edited or {}, f"{root or settings.quiver_config().root}/{name}.marks")
    elif good or bad or edited:
        raise ConfigError("bad-setting", "marks are given as a file, and one by one", kept="nothing was started")
    given = [one.url if isinstance(one, Dataset) else os.fspath(one) for one in (data, marks)]
    [made] = run("Mark", name=name, data=given[0], marks=given[1], **asked).datasets.values()
    return made


def _marks_of(good: Sequence[str], bad: Sequence[str], edited: Mapping[str, str], place: str) -> Dataset:
    """Marks as a dataset at `place`, behind which a part of the digest of what they say stands."""
    rows = [{"sample_id": one, "mark": word} for word, ids in ((GOOD, good), (BAD, bad)) for one in ids]
    rows += [{"sample_id": one, "mark": EDITED, "edited": text} for one, text in edited.items()]
    op = {"name": "notebook.marks", "version": 1, "params": {}}
    return Dataset.from_arrow(pa.Table.from_pylist(rows, MARKS.arrow), MARKS, f"{place}-{json_digest(rows)[:8]}", op=op)


def _result(task: luigi.Task) -> RunResult:
    assert isinstance(task, Command)
    results = task.graph if isinstance(task, Recipe) else Results.of(task.targets)
    return RunResult(
        Datasets({name: node.url for name, node in results.datasets.items()}),
        {name: node.url for name, node in results.checkpoints.items()},
        {name: metrics(node) for name, node in results.figures.items()},
        tuple(task.report()) if isinstance(task, Recipe) else (),
    )
