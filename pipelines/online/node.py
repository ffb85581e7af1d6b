"""The checkpoint of an online run, as a node of the graph: one task, whatever number of steps it takes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.graph.backend import ROLES, backend_of
from pipelines.graph.node import Node, asked_key, rows_of
from pipelines.graph.nodes import TrainedCheckpoint
from pipelines.graph.order import graph_property
from pipelines.graph.plan import Plan
from pipelines.graph.tokenizer_check import check_tokenizer
from pipelines.online.config import CRITIC, StepConfig, check_updates, done
from pipelines.online.guards import Guards
from schemas.canonical import json_digest
from schemas.manifest import task_key_of
from trainers.config import Paths, Run, Training
from trainers.registry import configured


@dataclass(frozen=True, eq=False)
class CriticTraining:
    """How the critic of an online run is trained, and the checkpoint that it begins with."""

    training: Training
    init: Node

    def placed(self, node: OnlineCheckpoint, policy: Run) -> Run:
        """Its run, below the folder of the policy's."""
        task_key = json_digest({CRITIC: node.task_key})
        facts = {"tokenizer_key": node.tokenizer_id}
        return self.training.placed(
            Paths(init=self.init.url, out=f"{policy.paths.folder}/{CRITIC}", task_key=task_key, facts=facts)
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class OnlineCheckpoint(TrainedCheckpoint):
    """A checkpoint made by a training whose rows are drawn from its own weights: `data` are the prompts that it asks,
    `step` says what becomes of them, `models` are those that this asks besides, by name, `critic` is what learns
    beside it.
    """

    step: StepConfig
    models: Mapping[str, Node] = field(default_factory=dict)
    critic: CriticTraining | None = None
    guards: Guards = field(default_factory=Guards)

    @graph_property
    def task_key(self) -> str:
        """What decides the weights: settings of training and of its steps, and keys of prompts, models and the
        checkpoint to start from.
        """
        read = {name: node for name, node in self.parents.items() if name != "validation"}
        named = {name: asked_key(name, node, self.step.precision(name)) for name, node in read.items()}
        return task_key_of(self.work, named, {}, self.training.learning.seed)

    @functools.cached_property
    def work(self) -> Mapping[str, Any]:
        return done(self.training.learning, self.step, None if self.critic is None else self.critic.training.learning)

    @property
    def parents(self) -> Mapping[str, Node]:
        """Prompts, tokenizer, the checkpoint to start from, that of the critic, and the models."""
        beside = {} if self.critic is None else {CRITIC: self.critic.init}
        return {**super().parents, **self.models, **beside}


def online_checkpoint(plan: Plan, node: OnlineCheckpoint) -> Node:
    """`node` as a part of `plan`, checked: every operation finds its columns, and training those that it reads."""
    held_out = node.validation
    node.training.check(init=node.init is not None, validation=held_out is not None, where=node.label)
    for asked in (node.data, *([] if held_out is None else [held_out])):
        check_tokenizer(node.label, node.init or node.tokenizer, asked)
        rows_of(asked).requires(node.step.answering.takes, f"{node.label} (a step)")
    prompts, answering = rows_of(node.data), node.step.answering
    for name, model in node.models.items():
        for role in ROLES:
            if role == name:
                before = answering.before(role, prompts)
                before.requires(backend_of(model).takes(model, role, before), f"the {role} of {node.label}")
    rows = node.step.labelling.gives(answering.gives(prompts))
    learning = node.training.learning
    check_updates(learning, node.step, node.label)
    algorithm, _ = configured(learning.algorithm, learning.settings, where=node.label)
    rows.requires(algorithm.rows, f"{node.label} (train.{algorithm.name})")
    node.guards.check_rows(rows.names, algorithm, node.label)
    if node.critic is not None:
        where = f"{node.label} (its critic)"
        node.critic.training.check(init=True, validation=False, where=where)
        check_tokenizer(where, node.critic.init, node.data)
        valued, _ = configured(node.critic.training.learning.algorithm, {}, where=where)
        rows.requires(valued.rows, f"{where}: train.{valued.name}")
    return plan.add(node)
