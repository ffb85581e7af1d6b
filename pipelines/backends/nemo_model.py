"""Models of NeMo given directly: the graph imports one as a checkpoint, and asks that."""

from __future__ import annotations

import os
from typing import ClassVar

from pipelines.backends.checkpoint import Checkpoint
from pipelines.backends.hf_folder import imported_model
from pipelines.graph.backend import register
from pipelines.graph.node import GraphBuilder, Node
from schemas.nemo.model import is_nemo


@register
class NemoModel(Checkpoint):
    """A `.nemo` archive, packed or unpacked, or a checkpoint folder of NeMo 2; what is opened is the checkpoint made of
    it.
    """

    form: ClassVar[str] = "a .nemo archive"
    example: ClassVar[str] = "./gpt-2b-001.nemo"

    def recognises(self, reference: str) -> bool:
        return "://" not in reference and is_nemo(os.path.expanduser(reference))

    def node(self, plan: GraphBuilder, reference: str) -> Node:
        return imported_model(plan, reference)
