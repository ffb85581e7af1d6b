"""What every node of a graph is: something that lies, or will lie, in a folder, with a key made of what decides it."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

from datakit.op import Op, Precision
from pipelines.graph.order import graph_property, ordered
from pipelines.graph.placement import with_answer_settings
from schemas import Schema
from schemas.chat_template import ChatTemplate
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.shards import ROWS_PER_SHARD
from schemas.store.commit import read_manifest
from schemas.tokenizer_lineage import TokenizerByColumn

T = TypeVar("T")

KEY_CHARACTERS = 8
"""Characters of the key in the name of a folder."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Node(ABC):
    """Something that lies, or will lie, in the folder `url`: a dataset or a checkpoint."""

    made: ClassVar[bool] = True
    """Whether a task makes it; otherwise it is there already."""
    trains: ClassVar[bool] = False
    """Whether that task is a training, whose steps are saved."""

    label: str
    root: str
    placement_settings: Mapping[str, Any] = field(default_factory=dict)
    answer_settings: Mapping[str, Any] = field(default_factory=dict)
    """Of a model: what stands behind its reference (`pipelines.graph.placement`), and what of that changes answers."""

    @property
    @abstractmethod
    def task_key(self) -> str:
        """The identity of what is made, SHA-256 in hex."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """`dataset` (rows in shards) or `checkpoint` (weights in a folder)."""

    @property
    def opened_by(self) -> str:
        """The kind of the backend that opens it as a model: mostly what it is itself."""
        return self.kind

    @property
    @abstractmethod
    def schema(self) -> Schema | None:
        """The schema of the rows; None for a checkpoint."""

    @property
    @abstractmethod
    def tokenizer_id(self) -> str:
        """The tokenizer that it is or that it speaks: its identity, or the key of one that has yet to be trained; empty
        if there is none, or several.
        """

    @property
    @abstractmethod
    def parents(self) -> Mapping[str, Node]:
        """What it is made of, by role."""

    @property
    def tokenizer_by_column(self) -> TokenizerByColumn:
        """The tokenizer that each column of ids or templated pieces speaks."""
        return {}

    @property
    def has_chat_template(self) -> bool | None:
        """Whether the tokenizer that it is, or speaks, has a chat template; None where that is not known yet."""
        return None

    @property
    def max_sequence_length(self) -> int | None:
        """Positions of the model that it is: tokens of the longest row; None where that is not known."""
        return None

    @property
    def output_names(self) -> tuple[str, ...]:
        """What a model calls the numbers it puts on a row; empty where it puts none, or where only its answers tell."""
        return ()

    @property
    def written_facts(self) -> Mapping[str, Any]:
        """What its manifest says, or will say, of the template that its rows were written with, or that it learnt."""
        return {}

    @property
    def trained_template(self) -> ChatTemplate:
        """The template that it was trained with, before it is made as after."""
        return ChatTemplate.of(self.written_facts)

    @property
    def work(self) -> Mapping[str, Any]:
        """Name, version and settings of what is done; empty for what is found."""
        return {}

    @graph_property
    def trained_tokenizers(self) -> Mapping[str, Node]:
        """Tokenizers that are trained among all it is made of, and itself, by key; shared where a parent's will do."""
        known: Mapping[str, Node] = {}
        for parent in self.parents.values():
            more = parent.trained_tokenizers
            if more.keys() > known.keys():
                known = more
            elif more.keys() - known.keys():
                known = {**known, **more}
        return known

    @functools.cached_property
    def url(self) -> str:
        """The folder below `root` that it lies in: its label, and the first characters of its key."""
        return f"{self.root.rstrip('/')}/{self.label}-{self.task_key[:KEY_CHARACTERS]}"

    @functools.cached_property
    def name(self) -> str:
        """The last part of the label: what a person calls it."""
        return self.label.rsplit("/", 1)[-1]

    def ancestors(self) -> list[Node]:
        """All nodes this one is made of and this one itself, every node behind what it is made of."""
        return ordered([self])

    def manifest(self) -> Manifest | None:
        """The manifest of what lies there; None while it is not made."""
        return read_manifest(self.url)


class GraphBuilder(Protocol):
    """What nodes are made with, as backends see it: the `Plan` of a graph."""

    root: str

    def attempt(self, make: Callable[[], T], otherwise: Callable[[], T]) -> T:
        """What `make` gives; where it is refused and the plan notes faults, what stands in for it."""

    def table(
        self,
        label: str,
        op: Op,
        *inputs: Node,
        seed: int = 0,
        rows_per_shard: int = ROWS_PER_SHARD,
        **resources: Node | None,
    ) -> Node:
        """The dataset that `op` makes of `inputs`."""

    def existing(self, place: str, kind: str) -> Node:
        """The dataset or checkpoint at `place`."""

    def add(self, node: Node) -> Node:
        """A node that stands for something outside."""


def resource_key(name: str, node: Node) -> str:
    """What a resource is known by: a tokenizer by its vocabulary, even when it comes out of a checkpoint."""
    return node.tokenizer_id if name == "tokenizer" and node.tokenizer_id else node.task_key


def asked_key(name: str, node: Node, precision: Precision = "fp32") -> str:
    """What the resource `name` of an operation is known by that asks it in `precision`."""
    model = resource_key(name, node)
    return model if name == "tokenizer" else with_answer_settings(model, node.answer_settings, precision)


def rows_of(node: Node) -> Schema:
    """The schema of a node's rows; `ConfigError` for one that has none."""
    if node.schema is None:
        raise ConfigError(
            "wrong-kind",
            f"{node.label} is a {node.kind}, not a dataset",
            expected="a dataset",
            kept="nothing was started",
        )
    return node.schema
