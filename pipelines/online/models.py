"""The models that the operations of a step ask: the network in training, and others, which stay open between steps."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.clients import Sampling
from datakit.clients.protocols import TokenRows
from datakit.op import Precision
from datakit.run.chain import PaidChain
from datakit.run.resource import Resource
from pipelines.graph.backend import Role, backend_of, model_at, placement_of
from pipelines.graph.node import asked_key
from pipelines.graph.nodes import Existing
from pipelines.graph.opening import opener_of, planned_as
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import any_at
from pipelines.online.config import OnlineRun, done
from pipelines.runtime.resources import resource_of
from schemas import Schema
from schemas.dataset import Dataset
from schemas.manifest import Parent
from schemas.store.commit import read_manifest
from schemas.tokenizer_lineage import FACT
from trainers.engine.megatron.leading import Lead
from trainers.engine.training.trainer import Trainer


class Policy:
    """The network in training as a `Generator`, which also gives the columns of `StepLogprobs`: whenever it is asked,
    all ranks compute together. `version` is how many steps it has learnt from.
    """

    def __init__(self, lead: Lead, version: int) -> None:
        self.lead, self.version = lead, version

    def generate(self, rows: pa.Table, sampling: Sampling, seeds: npt.NDArray[np.uint64]) -> pa.Table:
        """Answers by the weights as they stand."""
        answers: pa.Table = self.lead.ask("generate", rows, sampling, seeds)
        return answers

    def logprobs(self, column: str, rows: TokenRows) -> pa.Array:
        """Log-probabilities of every token, by the network that `column` is of."""
        return self.lead.ask(column, rows)


def tokenizer_of(trainer: Trainer) -> str:
    """The identity of the tokenizer that a trainer's network speaks; empty where it is not known."""
    known = trainer.prepared.facts.get(FACT, "")
    return known if isinstance(known, str) else ""


def opened(online: OnlineRun, answering: PaidChain, prompts: Dataset) -> dict[str, Resource]:
    """The models that `online` names, as `answering` finds them behind its first operation. They are opened once; but
    one that wants to be closed is opened for every step.
    """
    plan, resources = Plan(str(online.run.paths.folder)), dict[str, Resource]()
    for name, place in online.models.items():
        if name == FACT:
            resource = resource_of(name, any_at(plan, place), None)
        else:
            before, role = answering.before(name, prompts.schema), cast("Role", name)
            named = online.planned_models.get(name)
            resource = _asked(plan, role, place, before, online.step.precision(name), named)
        model = resource.open()
        if not hasattr(model, "close"):
            resource = replace(resource, open=functools.partial(_same, model))
        resources[name] = resource
    return resources


def lineage_of(online: OnlineRun) -> tuple[dict[str, Any], tuple[Parent, ...]]:
    """What the checkpoint says that it was made by (`models` are references of those that lie nowhere, a function say),
    and the models among its parents that lie in a folder.
    """
    plan, outside, parents = Plan(str(online.run.paths.folder)), dict[str, str](), list[Parent]()
    for name, place in online.models.items():
        node = any_at(plan, place) if name == FACT else model_at(plan, place, cast("Role", name))
        if isinstance(node, Existing):
            there = node.existing_manifest
            parents.append(Parent(name, node.url, there.content_digest, there.task_key))
        else:
            outside[name] = place
    for name, learner in online.learners.items():
        if (init := learner.run.paths.init) is not None:
            manifest = read_manifest(init)
            assert manifest is not None, f"{init}: {name} was made of it"
            parents.append(Parent(name, init, manifest.content_digest, manifest.task_key))
    made = done(online.run.learning, online.step, online.learners)
    return {**made, "models": outside} if outside else made, tuple(parents)


def _same(model: object) -> object:
    return model


def _asked(
    plan: Plan, role: Role, place: str, rows: Schema, precision: Precision, named: Mapping[str, Any] | None
) -> Resource:
    """The model at `place`, on as many threads as training has unless `place` says so; what it reads is no column of
    prompts. `named` is the identity that it has to have, where the run was planned with one.
    """
    import torch

    node = planned_as(model_at(plan, place, role), named)
    backend, placement = backend_of(node), placement_of(node)
    if "threads" not in node.placement_settings:
        placement = replace(placement, threads=torch.get_num_threads())
    if "precision" not in node.placement_settings:
        placement = replace(placement, precision=precision)
    open_ = opener_of(node, role, backend.takes(node, role, rows), placement)
    return Resource(asked_key(role, node, precision), open_, outputs=node.output_names)
