"""A tiny Llama as a Hugging Face folder and as a checkpoint, engines' stand-ins, and what a graph stands on, made."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import trainers.engine  # noqa: F401 - for its effect
from datakit.apply import apply
from datakit.op import NOTHING
from pipelines.graph.backend import Role, model_at
from pipelines.graph.external import ConvertedModel, ImportedModel
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table
from pipelines.graph.opening import model_resource
from pipelines.graph.plan import Plan
from pipelines.runtime.resources import resource_of
from tests import pages
from trainers.engine.inference.frozen import FrozenModel, open_frozen
from trainers.engine.inference.generator import Generator, open_generator
from trainers.engine.weights.export_hf import export
from trainers.engine.weights.import_hf import import_hf

PUBLISHED = Path(__file__).with_name("published")
LIBRARIES = {"vllm": "vllm", "trtllm": "tensorrt_llm"}


@dataclass(frozen=True)
class Own:
    """The same weights in our own engine: a checkpoint folder, what draws, what is asked about given tokens."""

    folder: Path
    checkpoint: str
    generator: Generator
    frozen: FrozenModel


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Own:
    torch.manual_seed(11)
    folder = tmp_path_factory.mktemp("llama") / "model"
    pages.model(folder, initializer_range=0.2, max_position_embeddings=96)
    checkpoint = str(folder.parent / "checkpoint")
    import_hf(str(folder), checkpoint, check="off", say=lambda line: None)
    return Own(folder, checkpoint, open_generator(checkpoint), open_frozen(checkpoint))


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """`published("vllm")`: the stand-in of that engine, importable, with nothing asked and nothing wrong."""
    monkeypatch.syspath_prepend(str(PUBLISHED))

    def module(kind: str) -> ModuleType:
        made = importlib.import_module(LIBRARIES[kind])
        monkeypatch.setattr(made, "ASKED", [])
        monkeypatch.setattr(made, "FAULT", "")
        return made

    yield module
    for name in [one for one in sys.modules if one.partition(".")[0] in LIBRARIES.values()]:
        del sys.modules[name]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(str(tmp_path / "root"))


def stood(node: Node) -> Node:
    """`node`, and all that it stands on made as the tasks do."""
    for one in node.ancestors():
        if one.manifest() is not None or not one.made:
            continue
        if isinstance(one, Table):
            given = {name: resource_of(name, model, None) for name, model in one.resources.items()}
            apply(one.op, [], one.url, resources=given, task_key=one.task_key)
        elif isinstance(one, ConvertedModel):
            export(one.model.url, one.url, task_key=one.task_key, check="off", say=lambda line: None)
        elif isinstance(one, ImportedModel):
            import_hf(one.folder, one.url, task_key=one.task_key, check="off", say=lambda line: None)
    return node


@pytest.fixture
def opened(plan: Plan) -> Iterator[Callable[..., Any]]:
    """`opened("vllm:...", "generator")`: the client of a model, closed at the end."""
    clients: list[Any] = []

    def open_(reference: str, role: Role = "generator") -> Any:
        node = stood(model_at(plan, reference, role))
        clients.append(model_resource(role, node, NOTHING, node.tokenizer_id).open())
        return clients[-1]

    yield open_
    for client in clients:
        client.close()
