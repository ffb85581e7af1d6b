"""What docs/results.md measures: the files `*.yaml` beside this one, each a ground with its methods.

A ground is a folder with settings and data; a method is a command in it, and figures read off what it leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import yaml

from schemas.settings import parse

HERE = Path(__file__).parent
ORDER = ("politeness", "distillation", "hh-helpful", "hh-harmless", "digits", "letters", "nemo-regression")
"""The files in the order of the page."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number, `form` is how Python formats it: the one that `sql` selects, or a `metric` of a REPORTS dataset, given
    as its place below the root without the key and its name; divided by another one, `per`.
    """

    name: str
    form: str = ".1%"
    sql: str = ""
    metric: str = ""
    per: str = ""

    @property
    def query(self) -> str:
        """Its SQL."""
        if self.sql:
            return self.sql
        parts = [_value(metric) for metric in (self.metric, self.per) if metric]
        return f"SELECT {' / '.join(parts)}"


def _value(metric: str) -> str:
    place, name = metric.split(" ")
    return f"(SELECT value FROM 'quiver-data/{place}-????????/*.parquet' WHERE metric = '{name}')"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Methods that differ by the word that stands for NAME: by `methods` their names, each with its title. `command` is
    what a user types; `before` makes what it reads, `after` measures what it made. `against` is what the figures are
    compared with.
    """

    methods: Mapping[str, str]
    command: str
    figures: tuple[Figure, ...]
    against: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def of(self, name: str) -> Entry:
        """The entry of one of its methods."""
        named = [
            replace(one, **{part: getattr(one, part).replace("NAME", name) for part in ("sql", "metric", "per")})
            for one in self.figures
        ]
        commands = {
            part: tuple(one.replace("NAME", name) for one in getattr(self, part)) for part in ("before", "after")
        }
        methods, command = {name: self.methods[name]}, self.command.replace("NAME", name)
        return replace(self, methods=methods, command=command, figures=tuple(named), **commands)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What its entries stand on: a folder for each seed, with `config` as luigi.cfg (a file of the repository, or
    nothing) and the seed in it, and links to `files` (below the folder of the sample data). `shared` are commands that
    all entries build on.
    """

    name: str
    title: str
    about: str
    shared: tuple[str, ...]
    entries: tuple[Entry, ...]
    config: str = ""
    files: tuple[str, ...] = ()

    @property
    def methods(self) -> dict[str, Entry]:
        """Every method by name."""
        return {name: entry.of(name) for entry in self.entries for name in entry.methods}


@cache
def grounds() -> tuple[Ground, ...]:
    """All of them."""
    texts = (HERE / f"{name}.yaml" for name in ORDER)
    return tuple(parse(Ground, yaml.safe_load(path.read_text(encoding="utf-8")), where=path.name) for path in texts)
