"""The graph as plain values: a node says what is made, of what, with which settings; nothing runs here.

A node is a `Table` (one operation over tables), a `Model` (one training run) or a `Found` (a dataset or checkpoint that
lies somewhere already). Its `key` is the identity of what it makes, known before anything has run: the settings that
change rows or weights and the keys of everything it is made of. Paths, processes and threads are not in it. The key
stands in the place behind a readable label:

    plan = Plan("quiver-data")
    rows = plan.table("demo/rows", Jsonl(files=("rows.jsonl",), format="rewarded").pinned())
    kept = plan.table("demo/kept", Where(sql="reward > 0"), rows)
    kept.url            quiver-data/demo/kept-3f2a91c0

Every edge is checked when the node is made: an operation's `takes` against the schema that comes in, the resources it
needs, the tokenizer of the rows against the tokenizer of the checkpoint.
"""

from __future__ import annotations

import ast
import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import schemas
import trainers
from datakit.op import Op
from schemas import VOCABULARIES, Schema
from schemas.commit import read_manifest
from schemas.errors import ConfigError, DataError, printable
from schemas.manifest import Manifest, task_key
from schemas.storage import normal
from trainers.config import Run
from trainers.registry import check_name

ROWS_PER_SHARD = 65_536
"""Rows of a shard where a stream is cut; shards are what processes share."""

_KEY_CHARACTERS = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class Node(ABC):
    """Something that lies, or will lie, in the folder `url`: a dataset or a checkpoint."""

    label: str
    root: str

    @property
    @abstractmethod
    def key(self) -> str:
        """The identity of what is made, SHA-256 in hex."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """`dataset` or `checkpoint`."""

    @property
    @abstractmethod
    def schema(self) -> Schema | None:
        """The schema of the rows; None for a checkpoint."""

    @property
    @abstractmethod
    def vocabulary(self) -> str:
        """The key of the tokenizer whose ids the rows hold or the network speaks; empty if there is none."""

    @property
    @abstractmethod
    def parents(self) -> Mapping[str, Node]:
        """What it is made of, by role."""

    @property
    def work(self) -> Mapping[str, Any]:
        """Name, version and settings of what is done; empty for what is found."""
        return {}

    @functools.cached_property
    def url(self) -> str:
        """Where it lies."""
        return f"{self.root.rstrip('/')}/{self.label}-{self.key[:_KEY_CHARACTERS]}"

    @functools.cached_property
    def name(self) -> str:
        """The last part of the label: what a person calls it."""
        return self.label.rsplit("/", 1)[-1]

    def ancestors(self) -> list[Node]:
        """All nodes this one is made of and this one itself, every node behind what it is made of."""
        seen: dict[int, Node] = {}
        _visit(self, seen)
        return list(seen.values())

    def manifest(self) -> Manifest | None:
        """The manifest of what lies there; None while it is not made."""
        return read_manifest(self.url)


def _visit(node: Node, seen: dict[int, Node]) -> None:
    if id(node) not in seen:
        for parent in node.parents.values():
            _visit(parent, seen)
        seen[id(node)] = node


@dataclass(frozen=True, eq=False, kw_only=True)
class Table(Node):
    """A dataset made by an operation. `rows_per_shard` cuts streams into the shards that processes share."""

    op: Op
    inputs: tuple[Node, ...] = ()
    resources: Mapping[str, Node] = field(default_factory=dict)
    seed: int = 0
    rows_per_shard: int = ROWS_PER_SHARD

    @functools.cached_property
    def key(self) -> str:
        """Operation, keys of inputs and resources, seed."""
        named = {name: resource_key(name, node) for name, node in self.resources.items()}
        return task_key(self.work, [node.key for node in self.inputs], named, self.seed)

    @property
    def kind(self) -> str:
        """A dataset."""
        return "dataset"

    @functools.cached_property
    def work(self) -> Mapping[str, Any]:
        """The operation's JSON."""
        return self.op.to_json()

    @functools.cached_property
    def schema(self) -> Schema:
        """What the operation gives for its inputs' schemas."""
        return self.op.gives(*(_rows(node) for node in self.inputs))

    @functools.cached_property
    def vocabulary(self) -> str:
        """The tokenizer among the resources, or that of a model among them, or that of the inputs."""
        if self.schema.name == VOCABULARIES.name:
            return self.key
        return next((v for node in (*self.resources.values(), *self.inputs) if (v := node.vocabulary)), "")

    @property
    def parents(self) -> Mapping[str, Node]:
        """Inputs by number (a single one is `input`), resources by name."""
        names = ["input"] if len(self.inputs) == 1 else [f"input {i}" for i in range(len(self.inputs))]
        return {**dict(zip(names, self.inputs, strict=True)), **self.resources}


@dataclass(frozen=True, eq=False, kw_only=True)
class Model(Node):
    """A checkpoint made by a training run. `run` is complete but for places and vocabulary size."""

    run: Run
    data: Node
    tokenizer: Node
    init: Node | None = None
    validation: Node | None = None
    ranks: int = 1

    @functools.cached_property
    def key(self) -> str:
        """What decides the weights: settings, and keys of the data, of the tokenizer and of the checkpoint to start
        from.
        """
        named = {name: node.key for name, node in self.parents.items() if name != "validation"}
        return task_key(self.work, named, {}, self.run.seed)

    @property
    def kind(self) -> str:
        """A checkpoint."""
        return "checkpoint"

    @functools.cached_property
    def work(self) -> Mapping[str, Any]:
        """`train.<algorithm>` and the deciding part of the run."""
        return {"name": f"train.{self.run.algorithm}", "version": 1, "params": self.run.decisive()}

    @property
    def schema(self) -> None:
        """A checkpoint has no rows."""

    @property
    def vocabulary(self) -> str:
        """Its tokenizer's key."""
        return self.tokenizer.key

    @property
    def parents(self) -> Mapping[str, Node]:
        """Data, tokenizer, and where given init and validation."""
        given = {"data": self.data, "tokenizer": self.tokenizer, "init": self.init, "validation": self.validation}
        return {name: node for name, node in given.items() if node is not None}


@dataclass(frozen=True, eq=False, kw_only=True)
class Found(Node):
    """A dataset or checkpoint that lies at `place`; its key is its content."""

    place: str
    told: Manifest

    @property
    def key(self) -> str:
        """Its task key where it was made by a task, or else the digest of its content."""
        return self.told.key or self.told.digest

    @functools.cached_property
    def url(self) -> str:
        """Where it lies."""
        return self.place

    @property
    def kind(self) -> str:
        """As its manifest says."""
        return self.told.kind

    @property
    def schema(self) -> Schema | None:
        """As its manifest says."""
        return self.told.schema

    @property
    def vocabulary(self) -> str:
        """The tokenizer's key that was recorded with it."""
        if self.told.schema is not None and self.told.schema.name == VOCABULARIES.name:
            return self.key
        return str(self.told.facts.get("tokenizer", ""))

    @property
    def parents(self) -> Mapping[str, Node]:
        """Nothing that would have to be made."""
        return {}


class Plan:
    """Makes nodes below one root, checks each as it is made, and never makes the same one twice."""

    def __init__(self, root: str) -> None:
        self.root = normal(root)
        self.nodes: dict[tuple[str, str], Node] = {}

    def table(
        self,
        label: str,
        op: Op,
        *inputs: Node,
        seed: int = 0,
        rows_per_shard: int = ROWS_PER_SHARD,
        **resources: Node | None,
    ) -> Table:
        """The dataset that `op` makes of `inputs`; raises at once for what could only fail later."""
        node = Table(
            label=label,
            root=self.root,
            op=op,
            inputs=inputs,
            resources={name: given for name, given in resources.items() if given is not None},
            seed=seed,
            rows_per_shard=rows_per_shard,
        )
        _check_table(node)
        return self._once(node)

    def model(
        self,
        label: str,
        run: Run,
        *,
        data: Node,
        tokenizer: Node,
        init: Node | None = None,
        validation: Node | None = None,
        ranks: int = 1,
    ) -> Model:
        """The checkpoint that `run` makes of `data`; places in `run` are filled in when it runs."""
        node = Model(
            label=label,
            root=self.root,
            run=run,
            data=data,
            tokenizer=tokenizer,
            init=init,
            validation=validation,
            ranks=ranks,
        )
        _check_model(node)
        return self._once(node)

    def found(self, place: str, kind: str) -> Found:
        """The dataset or checkpoint at `place`; `ConfigError` if there is none of this kind."""
        url = normal(place)
        manifest = read_manifest(url)
        if manifest is None or manifest.kind != kind:
            raise ConfigError(
                "not-found" if manifest is None else "wrong-kind",
                f"{printable(place, 200)} is not a {kind}",
                expected=f"a folder with the manifest of a {kind}",
                found="no manifest" if manifest is None else f"a {manifest.kind}",
                kept="nothing was started",
            )
        return self._once(Found(label=url.rsplit("/", 1)[-1], root=self.root, place=url, told=manifest))

    def _once(self, node: Any) -> Any:
        return self.nodes.setdefault((node.label, node.key), node)


def any_found(plan: Plan, place: str) -> Found:
    """The dataset or checkpoint at `place`, whichever it is."""
    manifest = read_manifest(place)
    return plan.found(place, "dataset" if manifest is None else manifest.kind)


def resource_key(name: str, node: Node) -> str:
    """What a resource is known by: a tokenizer by its vocabulary, even when it comes out of a checkpoint."""
    return node.vocabulary if name == "tokenizer" and node.vocabulary else node.key


def _rows(node: Node) -> Schema:
    if node.schema is None:
        raise ConfigError(
            "wrong-kind",
            f"{node.label} is a checkpoint, not a dataset",
            expected="a dataset",
            kept="nothing was started",
        )
    return node.schema


def _check_table(node: Table) -> None:
    for given in node.inputs:
        _rows(given).requires(node.op.takes, f"{node.label} ({node.op.name})")
    missing = [name for name in node.op.needs if name not in node.resources]
    surplus = [name for name in node.resources if name not in node.op.needs]
    if missing or surplus:
        raise ConfigError(
            "missing-resource" if missing else "unknown-resource",
            f"{node.op.name} needs {', '.join(node.op.needs) or 'no resource'}",
            found=", ".join(node.resources) or "none",
            where=node.label,
            kept="nothing was started",
        )
    for name in ("generator", "scorer"):
        if name in node.resources:
            _same_vocabulary(node.label, node.resources[name], node.inputs)
    assert node.schema is not None


def _check_model(node: Model) -> None:
    check_name(node.run.algorithm)
    needed = _learns_from(node.run.algorithm)
    for given in (node.data, node.validation):
        if given is not None and needed is not None:
            _rows(given).requires(needed, f"{node.label} (train.{node.run.algorithm})")
    held = [given for given in (node.data, node.validation, node.tokenizer) if given is not None]
    _same_vocabulary(node.label, node.init or node.tokenizer, held)
    world = node.run.parallel.tensor * node.run.parallel.pipeline
    if node.ranks % world:
        raise ConfigError(
            "parallel-size",
            f"{node.ranks} ranks do not divide by tensor {node.run.parallel.tensor} x pipeline "
            f"{node.run.parallel.pipeline}",
            where=node.label,
            kept="nothing was started",
        )


@functools.lru_cache(maxsize=64)
def _learns_from(algorithm: str) -> Schema | None:
    """The schema that an algorithm's file names in `rows=`, without importing torch; None if it is not a plain name."""
    tree = ast.parse((Path(trainers.__file__).parent / "algorithms" / f"{algorithm}.py").read_text(encoding="utf-8"))
    for part in ast.walk(tree):
        if isinstance(part, ast.keyword) and part.arg == "rows" and isinstance(part.value, ast.Name):
            found = getattr(schemas, part.value.id, None)
            return found if isinstance(found, Schema) else None
    return None


def _same_vocabulary(label: str, one: Node, others: Sequence[Node]) -> None:
    for other in others:
        if one.vocabulary and other.vocabulary and one.vocabulary != other.vocabulary:
            raise DataError(
                "wrong-tokenizer",
                f"{label}: {other.name} holds ids of another tokenizer than {one.name} speaks",
                expected=f"tokenizer {one.vocabulary[:12]}",
                found=f"tokenizer {other.vocabulary[:12]}",
                where=other.url,
                kept="nothing was started",
                next="tokenize the rows with the tokenizer of the checkpoint",
            )
