"""Figures as data: tables that a terminal, a page or a notebook shows in its own way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.graph.nodes import Node
from schemas.dataset import Dataset
from schemas.errors import IntegrityError
from schemas.manifest import Manifest

Value = str | float | None
"""A figure; None where nothing was measured."""


@dataclass(frozen=True)
class Figure:
    """A column of a table: `form` is how Python formats its numbers, `between` joins those of a cell with several."""

    name: str
    form: str = ""
    between: str = ", "


@dataclass(frozen=True)
class FigureTable:
    """Rows of figures under their names; a cell with several numbers is a tuple."""

    title: str
    columns: tuple[Figure, ...]
    rows: tuple[tuple[Value | tuple[Value, ...], ...], ...]

    def records(self) -> list[dict[str, Value | tuple[Value, ...]]]:
        """A mapping for every row, as a data frame is made of."""
        names = [column.name for column in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows]


def metrics(report: Node) -> Mapping[str, float]:
    """The figures in a REPORTS dataset by name."""
    table = Dataset.open(report.url).read(columns=["metric", "value"])
    return dict(zip(table["metric"].to_pylist(), table["value"].to_pylist(), strict=True))


def manifest_of(node: Node) -> Manifest:
    """The manifest of what a figure is about; `IntegrityError` where it was removed since."""
    manifest = node.manifest()
    if manifest is None:
        raise IntegrityError(
            "result-gone",
            f"{node.label} is gone: the report lacks its figures",
            expected="every dataset of the iterations that are reported",
            found="no manifest",
            where=node.url,
            kept="every other result; the policy is complete",
            next=f"remove what was made of {node.label} too, and run the same command again: it is made anew",
        )
    return manifest
