"""Figures as data: tables that a terminal, a page or a notebook shows in its own way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.graph.node import Node
from schemas.dataset import Dataset
from schemas.errors import printable

Value = str | float | None
"""A figure; None where nothing was measured."""


@dataclass(frozen=True)
class Figure:
    """A column of a table: `form` is how Python formats its numbers, `between` joins those of a cell with several,
    `meaning` is printed below the table. `change` names what a run changed, for the head of its page: of two columns
    with one such name the first has it before and the second after, one column alone has both in its cells.
    """

    name: str
    form: str = ""
    between: str = ", "
    meaning: str = ""
    change: str = ""


@dataclass(frozen=True)
class Change:
    """What a run changed, before it and after it, as texts."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class FigureTable:
    """Rows of figures under their names; a cell with several numbers is a tuple. `notes` say why some are missing."""

    title: str
    columns: tuple[Figure, ...]
    rows: tuple[tuple[Value | tuple[Value, ...], ...], ...]
    notes: tuple[str, ...] = ()

    def records(self) -> list[dict[str, Value | tuple[Value, ...]]]:
        """A mapping for every row, as a data frame is made of."""
        names = [column.name for column in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows]


def metrics(report: Node) -> Mapping[str, float]:
    """The figures in a REPORTS dataset by name."""
    table = Dataset.open(report.url).read(columns=["metric", "value"])
    return dict(zip(table["metric"].to_pylist(), table["value"].to_pylist(), strict=True))


def lines(url: str) -> str:
    """The figures in the REPORTS dataset at `url`, a line each."""
    rows = Dataset.open(url).read().to_pylist()
    return "\n".join(f"{row['metric']:<28} {row['value']:.4f}" for row in rows)


def perplexity(loss: float) -> float:
    """exp of `loss` (nats for a token); infinite where floats end, above 709.78 nats."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def gone(nodes: Sequence[Node]) -> tuple[str, ...]:
    """A line for each of `nodes` that was removed since it was made: a table lacks its figures."""
    return tuple(
        f"{printable(node.url, 200)} is gone: its figures are left out" for node in nodes if not node.manifest()
    )
