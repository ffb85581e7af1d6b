"""Faults of a graph that is only looked at: each is noted, and something stands in for what was refused, so that the
rest of the graph is made and looked at too.

What a stand-in cannot hold is no fault of the stages behind it: rows that lack a column there are not reported again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from pipelines.graph.node import Node, rows_of
from pipelines.graph.nodes import Table
from pipelines.graph.order import graph_property, ordered
from schemas import Schema
from schemas.errors import DataError, QuiverError
from schemas.manifest import task_key_of

T = TypeVar("T")

_NUMBER = re.compile(r"\b(iter|step)=\d+")


class Faults:
    """Faults in the order in which they were found; one of many stages, or of every iteration, is noted once."""

    def __init__(self) -> None:
        self._noted: dict[tuple[str, ...], QuiverError] = {}
        self._refused: set[int] = set()

    @property
    def noted(self) -> Sequence[QuiverError]:
        """Each fault once, in the order of finding."""
        return [*self._noted.values()]

    def note(self, error: QuiverError, label: str = "") -> None:
        """`error`, and what was found beside it; what was said of another `label` already is not said again."""
        for one in (error, *error.beside):
            words = (one.slug, one.what.replace(label, "") if label else one.what, one.expected, one.found)
            self._noted.setdefault(tuple(_NUMBER.sub(r"\1=", text) for text in words), one)

    def attempt(self, make: Callable[[], T], otherwise: Callable[[], T]) -> T:
        """What `make` gives; where it is refused, what stands in for it."""
        try:
            return make()
        except QuiverError as error:
            self.note(error)
            return otherwise()

    def gather(self, checks: Iterable[Callable[[], object]]) -> None:
        """Do all `checks`, and note what they refuse."""
        for check in checks:
            self.attempt(check, lambda: None)

    def note_of(self, error: QuiverError, node: Node) -> None:
        """The fault of `node`, unless it is that of what it is made of."""
        self._refused.add(id(node))
        derived = isinstance(error, DataError) or error.missing
        if not (derived and any(is_stand_in(one) for one in node.ancestors() if one is not node)):
            self.note(error, node.label)

    def is_refused(self, node: Node) -> bool:
        """Whether a fault of `node` itself is noted."""
        return id(node) in self._refused


@dataclass(frozen=True, eq=False, kw_only=True)
class StandIn(Node):
    """What stands where a model or rows were asked for and none are: `stands_for` is the kind, `rows` the schema."""

    made: ClassVar[bool] = False

    stands_for: str
    rows: Schema | None = None

    @property
    def task_key(self) -> str:
        """That of something that nobody has."""
        return task_key_of({"name": "missing", "version": 1, "params": {"label": self.label}}, {}, {}, 0)

    @property
    def kind(self) -> str:
        return self.stands_for

    @property
    def schema(self) -> Schema | None:
        return self.rows

    @property
    def tokenizer_id(self) -> str:
        return ""

    @property
    def parents(self) -> Mapping[str, Node]:
        """Nothing that would have to be made."""
        return {}

    def manifest(self) -> None:
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class RefusedTable(Table):
    """A table that was refused: its rows are as far as the operation tells, or else those of its input."""

    @graph_property
    def schema(self) -> Schema:
        given = [rows_of(node) for node in self.inputs]
        try:
            return self.op.gives(*given)
        except QuiverError:
            return given[0] if given else self.op.takes


def is_stand_in(node: Node) -> bool:
    """Whether `node` was refused, or stands for what is not there."""
    return isinstance(node, StandIn | RefusedTable)


def spoilt(nodes: Sequence[Node]) -> set[int]:
    """Those of `nodes`, and of all they are made of, that are refused or are made of such, by `id`."""
    known: set[int] = set()
    for node in ordered(nodes):
        if is_stand_in(node) or any(id(one) in known for one in node.parents.values()):
            known.add(id(node))
    return known
