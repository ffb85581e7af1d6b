"""What a suite is: which rows it reads, what a model is asked about them, which of its answers are right, and figures.

    --data -> rows, with the columns that figures are sliced by -> asked in the suite's words -> scored by an operation
           -> one row a question (or an answer) -> means with intervals, by slice

A suite is one value in one file, `pipelines/suites/__init__.py` has a line for it. All that it does is operations in a
graph: nothing here reads a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from datakit.clients import Sampling
from datakit.measure import Mean
from datakit.sql import Query
from pipelines.graph.backend import Role
from pipelines.graph.node import Node, rows_of
from pipelines.graph.plan import Plan
from pipelines.stages.ask import Reading


@dataclass(frozen=True, kw_only=True)
class Examples:
    """`count` of the rows `examples` with their answers before each question, which ones `datakit.template.FewShot`
    chooses.
    """

    count: int
    choose: Literal["seeded", "first"]
    examples: Node


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a suite is run on: rows with the columns `slices`, and a model that is asked as `reading` and `sampling`
    say. Results lie below `label`.
    """

    label: str
    rows: Node
    model: Node
    reading: Reading
    sampling: Sampling
    slices: tuple[str, ...]
    seed: int
    judge: Node | None = None
    """For a suite that `compares`: who says which of two answers is better."""
    reward_model: Node | None = None
    """For a suite that `compares`, instead of a judge: whose rewards say it."""
    few_shot: Examples | None = None
    """For a suite that `shows` them."""


@dataclass(frozen=True)
class Measured:
    """Rows with what was measured of each, and the figures (REPORTS)."""

    rows: Node
    figures: Node
    meanings: Mapping[str, str]
    """What each figure means."""


@dataclass(frozen=True, kw_only=True)
class Suite(ABC):
    """Base of the suites: what one is, and what a kind of them adds."""

    role: ClassVar[Role]
    """What the model is asked to be."""
    key: ClassVar[str] = ""
    """The column whose rows are resampled together; empty: each row by itself."""
    compares: ClassVar[bool] = False
    """Whether a second model, a judge or a reward model, is asked which of two answers is better."""
    shows: bool = False
    """Whether rows with their answers can stand before a question as examples."""

    name: str
    about: str
    """The benchmark in a line, with its paper."""
    formats: tuple[str, ...]
    """Formats of its rows' file, the usual one first."""
    figures: Mapping[str, str]
    """Number columns of the scored rows whose means are reported, each with what it means."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Names that the published file uses for keys of the format."""
    slices: tuple[str, ...] = ()
    """Keys of the published file by which figures are reported, where a file has them."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""
    derived: Mapping[str, str] = field(default_factory=dict)
    """Further number columns of the scored rows, as SQL of theirs."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """How often a row counts in a figure: the name of a number column; by default once."""

    @abstractmethod
    def scored(self, plan: Plan, given: Given) -> Node:
        """Rows with the columns that `figures` names, and the slices."""

    def reported(self, given: Given) -> Mapping[str, str]:
        """The figures of such a run, each with what it means."""
        return self.figures

    def measured(self, plan: Plan, given: Given) -> Measured:
        """The scored rows and their figures: means with 95 % intervals over questions, and those of every slice."""
        rows, figures = self.scored(plan, given), self.reported(given)
        if self.derived and figures == self.figures:
            columns = "".join(f", CAST({sql} AS DOUBLE) AS {name}" for name, sql in self.derived.items())
            query = Query(query=f"SELECT *{columns} FROM rows", tables=("rows",), key=rows_of(rows).key)
            rows = plan.table(f"{given.label}/derived", query, rows)
        weights = {name: weight for name, weight in self.weights.items() if name in figures}
        op = Mean(columns=tuple(figures), group=self.key, slices=given.slices, stage=given.label, weights=weights)
        return Measured(rows, plan.table(f"{given.label}/figures", op, rows, seed=given.seed), figures)
