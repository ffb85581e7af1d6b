"""A planned graph in small, below another root: the same stages over a few rows, models after two optimizer steps.

    rows that are read or there, split, shuffled, filtered    whole
    what anything else reads of them                          the first few rows
    a model that is there                                     as it is
    a model that is missing                                   two steps over what has come so far

Rows that no model and no template has seen cost little, and shares and numbers of rows that a recipe asks for hold of
them all: they are cut behind that. Keys are those of other settings: nothing here is taken for the real thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from datakit.blend import Shuffle, Split
from datakit.filter import NotIn, Window
from datakit.op import Gather, Keep, Op, Read
from datakit.preview import MadeUp
from datakit.tokenizers.making import MakesTokenizer
from pipelines.graph.node import Node
from pipelines.graph.nodes import Existing, Table, TrainedCheckpoint
from pipelines.graph.order import ordered
from pipelines.online.node import OnlineCheckpoint
from schemas import Schema
from schemas.shards import ROWS_PER_SHARD
from trainers.config import Training

STEPS = 2
"""Optimizer steps of a model that is missing."""
_FOR_A_TOKENIZER = 100
"""Times the rows that a tokenizer is trained on: one that has seen a few texts cuts all others into bytes."""


class Small:
    """Makes small nodes below `root`, of `count` rows where the real ones have more; what is `there` stays."""

    def __init__(self, root: str, count: int, there: set[int]) -> None:
        self.root, self.count, self.there = root, count, there
        self._small: dict[int, Node] = {}
        self._whole: set[int] = set()
        self._cuts: dict[tuple[int, int], Node] = {}

    def of(self, targets: Sequence[Node]) -> list[Node]:
        """The small nodes of `targets`."""
        for node in ordered(targets, ends=lambda one: id(one) in self.there):
            self._small[id(node)] = small = self._made(node)
            if self._is_whole(node):
                self._whole.add(id(small))
        return [self._small[id(node)] for node in targets]

    def _is_whole(self, node: Node) -> bool:
        """Whether the small one of `node` has all its rows."""
        if id(node) in self.there or isinstance(node, Existing):
            return node.kind == "dataset"
        return isinstance(node, Table) and _only_chooses(node.op) and all(map(self._is_whole_input, node.inputs))

    def _is_whole_input(self, node: Node) -> bool:
        return id(self._small[id(node)]) in self._whole

    def _made(self, node: Node) -> Node:
        if id(node) in self.there or isinstance(node, Existing):
            return node
        small: Any = self._moved(replace(node, root=self.root))  # type: ignore[type-var]
        if isinstance(small, Table) and self._is_whole(node):
            return replace(small, rows_per_shard=ROWS_PER_SHARD)
        if isinstance(small, Table):
            count = self.count * (_FOR_A_TOKENIZER if isinstance(small.op, MakesTokenizer) else 1)
            cut = replace(small, inputs=tuple(self._cut(one, count) for one in small.inputs))
            return self._or_made_up(cut) if isinstance(small.op, Keep | Gather) else cut
        if isinstance(small, OnlineCheckpoint):
            return self._online(small)
        if isinstance(small, TrainedCheckpoint):
            given = {name: self._some(one) for name, one in small.parents.items() if name in ("data", "validation")}
            return replace(small, training=_two_steps(small.training), **given)  # type: ignore[arg-type]
        return small

    def _online(self, node: OnlineCheckpoint) -> Node:
        """A few prompts a step, and as many rows in an optimizer step as come of them."""
        prompts = min(node.step.prompts, self.count)
        rows = max(1, node.training.learning.global_batch_size * prompts // node.step.prompts)
        training = _two_steps(node.training)
        return replace(
            node,
            data=self._cut(node.data, self.count),
            training=replace(training, learning=replace(training.learning, global_batch_size=rows)),
            step=replace(node.step, prompts=prompts),
            learners={name: replace(one, warmup=min(one.warmup, 1)) for name, one in node.learners.items()},
        )

    def _cut(self, node: Node, count: int) -> Node:
        """The first `count` rows of `node`, where it has all of them."""
        if id(node) not in self._whole:
            return node
        if (id(node), count) not in self._cuts:
            label = f"{node.label}.first-{count}" if node.root == self.root else f"there/{node.name}"
            cut = Table(label=label, root=self.root, op=Window(limit=count), inputs=(node,))
            self._cuts[id(node), count] = cut
        return self._cuts[id(node), count]

    def _some(self, node: Node) -> Node:
        """The first rows of `node`, or made-up ones where none came."""
        return self._or_made_up(self._cut(node, self.count))

    def _or_made_up(self, node: Node) -> Node:
        return Table(label=f"{node.label}.or-made-up", root=self.root, op=MadeUp(), inputs=(node,))

    def _moved(self, value: Any) -> Any:
        """`value` with small nodes in place of those that it holds."""
        if isinstance(value, Node) and id(value) in self._small:
            return self._small[id(value)]
        if isinstance(value, Mapping):
            return {name: self._moved(one) for name, one in value.items()}
        if isinstance(value, tuple):
            return tuple(map(self._moved, value))
        if is_dataclass(value) and not isinstance(value, type | Op | Schema | Training):
            given = {one.name: getattr(value, one.name) for one in fields(value) if one.init}
            moved = {name: self._moved(one) for name, one in given.items()}
            changed = {name: one for name, one in moved.items() if one is not given[name]}
            return replace(value, **changed) if changed else value  # type: ignore[type-var]
        return value


def _only_chooses(op: Op) -> bool:
    """Whether an operation reads rows, or takes some of those that come as they are, and asks no model."""
    return not op.needs and isinstance(op, (Read, Split, Shuffle, Window, NotIn, Keep))


def _two_steps(training: Training) -> Training:
    """The training with two steps, without saves and validation on its way."""
    learning, execution = training.learning, training.execution
    optim = replace(learning.optim, warmup_steps=min(learning.optim.warmup_steps, STEPS))
    bare = {"save_every": None, "save_async": False, "keep_best": 0, "validate_every": None, "best_by": "val_loss"}
    return replace(
        training,
        learning=replace(learning, epochs=None, max_steps=STEPS, optim=optim),
        execution=replace(execution, track=(), **bare),  # type: ignore[arg-type]
    )


def is_beside(node: Node) -> bool:
    """Whether a small node is none of the command's own stages: rows that are cut, or let through."""
    cut = isinstance(node, Table) and isinstance(node.op, Window) and ".first-" in node.label
    return cut or node.label.startswith("there/") or (is_made_up(node) is False)


def is_made_up(node: Node) -> bool | None:
    """Whether rows of `node` were made up; None for one that makes none up."""
    if not isinstance(node, Table) or not isinstance(node.op, MadeUp):
        return None
    came = node.inputs[0].manifest()
    return came is None or not came.num_rows
