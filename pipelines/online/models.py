"""The models that the operations of a step ask: the network in training, and others, which stay open between steps."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.clients import Sampling
from datakit.clients.protocols import TokenRows
from datakit.run.chain import PaidChain
from datakit.run.resource import Resource
from pipelines.graph.backend import Role, backend_of, model_at, placement_of
from pipelines.graph.nodes import asked_key
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import any_at
from pipelines.online.config import OnlineRun
from pipelines.runtime.resources import resource_of
from schemas import Schema
from schemas.dataset import Dataset
from schemas.tokenizer_lineage import FACT
from trainers.engine.megatron.leading import Lead
from trainers.engine.training.trainer import Trainer


class Policy:
    """The network in training as a `Generator`, which also gives the columns of `StepLogprobs`: whenever it is asked,
    all ranks compute together.
    """

    def __init__(self, lead: Lead) -> None:
        self.lead = lead

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
            resource = _asked(plan, name, place, answering.before(name, prompts.schema))  # type: ignore[arg-type]
        model = resource.open()
        if not hasattr(model, "close"):
            resource = replace(resource, open=functools.partial(_same, model))
        resources[name] = resource
    return resources


def _same(model: object) -> object:
    return model


def _asked(plan: Plan, role: Role, place: str, rows: Schema) -> Resource:
    """The model at `place`, on as many threads as training has unless `place` says so; what it reads is no column of
    prompts.
    """
    import torch

    node = model_at(plan, place, role)
    backend, placement = backend_of(node), placement_of(node)
    if "threads" not in node.placement_settings:
        placement = replace(placement, threads=torch.get_num_threads())
    open_ = functools.partial(backend.open, node.url, role, backend.takes(node, role, rows), placement)
    return Resource(asked_key(role, node), open_, outputs=node.output_names)
