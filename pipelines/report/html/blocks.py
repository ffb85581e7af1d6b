"""What a page is made of, as plain values: sections that hold tables, charts and answers side by side.

Every text in them is data from anywhere: it is escaped where the page is written, never here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_NUMBER = re.compile(r"[-+]?(\d|\.\d|inf$|nan$)|-$")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table of texts below the names of its columns. `meanings` say what columns are, `notes` what is missing;
    `folded`: it is shown when somebody asks for it.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    meanings: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    folded: bool = False

    @property
    def to_right(self) -> tuple[bool, ...]:
        """Which columns hold numbers alone, or numbers and what is yes or no."""
        columns = [[cell for cell in column if cell not in ("yes", "no")] for column in zip(*self.rows, strict=True)]
        return tuple(all(map(_NUMBER.match, cells)) and bool(cells) for cells in columns)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A Vega-Lite `spec`, and the `grid` of the same numbers, which stands in its place where nothing draws it."""

    caption: str
    spec: Mapping[str, Any]
    grid: Grid


@dataclass(frozen=True, kw_only=True)
class Charts:
    """Small charts beside each other."""

    charts: tuple[Chart, ...]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One answer: whose it is, the answer, and its numbers by name."""

    name: str
    text: str
    numbers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A question as (role, text) turns, and the answers to it."""

    id: str
    turns: tuple[tuple[str, str], ...]
    sides: tuple[Side, ...]
    verdict: str = ""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers side by side, with a box that searches them."""

    caption: str
    rows: tuple[Compared, ...]


@dataclass(frozen=True, kw_only=True)
class Ancestry:
    """A line for each result, behind what it was made of: (name, operation, rows); `spec` draws what was made of what
    in lines of `ROW_PIXELS`.
    """

    caption: str
    lines: tuple[tuple[str, str, str], ...]
    made_of: tuple[str, ...]
    spec: Mapping[str, Any]


ROW_PIXELS = 26

Block = Grid | Charts | Answers | Ancestry


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, a line about what is below it, and that."""

    title: str
    lead: str = ""
    blocks: tuple[Block, ...] = ()

    @property
    def anchor(self) -> str:
        """Its name in links of the page."""
        return re.sub(r"[^a-z]+", "-", self.title.lower())
