"""The contract of a renderer: figures in, a text for the terminal out; what it writes besides goes into one folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipelines.report.figures import FigureTable


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a recipe measured: `tables` that have rows; `folder` (any fsspec URL) is where its results lie.

    `results` are the places, as seen from `root`, of all that it stands on, the last of them what names the run;
    `command` is what was typed; `track` names the trackers that its trainings were asked to tell.
    """

    title: str
    folder: str
    tables: tuple[FigureTable, ...]
    root: str = ""
    results: tuple[str, ...] = ()
    command: str = ""
    track: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """A way to show figures: `render` says what is printed at the end of a recipe, the figures themselves or where a
    page of them was written; empty where there is nothing to show.
    """

    name: str
    render: Callable[[Report], str]
    place: Callable[[Report], str] = lambda report: ""
    """Where it writes a page; empty: nowhere."""
