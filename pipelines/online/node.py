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
from pipelines.online.config import StepConfig, check_updates, done
from pipelines.online.guards import Guards
from pipelines.online.kept_rollouts import KeepRollouts
from pipelines.online.learner import LearnerRun
from schemas.canonical import json_digest
from schemas.manifest import task_key_of
from trainers.config import Learning, Paths, Run, Training
from trainers.registry import configured


@dataclass(frozen=True, eq=False, kw_only=True)
class LearnerTraining:
    """How a learner beside the policy is trained, the checkpoint that it begins with, and how many rounds of answers it
    alone learns from before the first step.
    """

    training: Training
    init: Node
    warmup: int = 0

    @property
    def learning(self) -> Learning:
        """What is learnt of its training."""
        return self.training.learning

    def placed(self, name: str, node: OnlineCheckpoint, policy: Run) -> LearnerRun:
        """Its run as the learner `name`, below the folder of the policy's."""
        task_key = json_digest({name: node.task_key})
        facts = {"tokenizer_key": node.tokenizer_id}
        paths = Paths(init=self.init.url, out=f"{policy.paths.folder}/{name}", task_key=task_key, facts=facts)
        return LearnerRun(run=self.training.placed(paths), warmup=self.warmup)


@dataclass(frozen=True, eq=False, kw_only=True)
class OnlineCheckpoint(TrainedCheckpoint):
    """A checkpoint made by a training whose rows are drawn from its own weights: `data` are the prompts that it asks,
    `step` says what becomes of them, `models` are those that this asks besides, by name, `learners` are what
    learns beside it, by kind.
    """

    step: StepConfig
    models: Mapping[str, Node] = field(default_factory=dict)
    learners: Mapping[str, LearnerTraining] = field(default_factory=dict)
    guards: Guards = field(default_factory=Guards)
    keep_rollouts: KeepRollouts = field(default_factory=KeepRollouts)

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
        return done(self.training.learning, self.step, self.learners)

    @property
    def parents(self) -> Mapping[str, Node]:
        """Prompts, tokenizer, the checkpoint to start from, those of learners beside it, and the models."""
        beside = {name: one.init for name, one in self.learners.items()}
        return {**super().parents, **self.models, **beside}


def online_checkpoint(plan: Plan, node: OnlineCheckpoint) -> Node:
    """`node` as a part of `plan`, checked: every operation finds its columns, and training those that it reads."""
    return plan.add(node, _check)


def _check(node: OnlineCheckpoint) -> None:
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
    for name, learner in node.learners.items():
        where = f"{node.label} (its {name})"
        learner.training.check(init=True, validation=False, where=where)
        check_tokenizer(where, learner.init, node.data)
        reading, _ = configured(learner.learning.algorithm, {}, where=where)
        rows.requires(reading.rows, f"{where}: train.{reading.name}")
