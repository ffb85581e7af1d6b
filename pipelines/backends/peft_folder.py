"""PEFT folders given directly: the graph imports the adapters on their base as one checkpoint, and asks that."""

from __future__ import annotations

import os
from typing import ClassVar

from pipelines.backends.checkpoint import Checkpoint
from pipelines.backends.hf_folder import imported_model
from pipelines.graph.backend import register
from pipelines.graph.node import GraphBuilder, Node
from trainers.adapter_folder import is_adapters


@register
class PeftFolder(Checkpoint):
    """A folder with adapter_config.json; what is opened is the checkpoint that is made of it and of its base."""

    form: ClassVar[str] = "a PEFT folder"
    example: ClassVar[str] = "./my-lora"

    def recognises(self, reference: str) -> bool:
        return "://" not in reference and is_adapters(os.path.expanduser(reference))

    def node(self, plan: GraphBuilder, reference: str) -> Node:
        return imported_model(plan, reference)
