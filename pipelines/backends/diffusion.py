"""Image models: a folder of diffusers (Stable Diffusion 1.x, 2.x, XL), or adapters that were trained on one.

A folder is known by the small files of its parts whole, and by headers and blocks of its weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from datakit.op import Capability, Op
from datakit.template import ImagePrompt, Rendering
from pipelines.graph.backend import Backend, Placement, Role, Step, register
from pipelines.graph.external import ExternalModel
from pipelines.graph.node import GraphBuilder, Node
from pipelines.graph.resolve import stem
from pipelines.images.node import DIFFUSION
from schemas import IMAGES, Schema
from schemas.errors import ConfigError
from schemas.store.commit import read_manifest
from trainers.images import FACT
from trainers.images.folder import base_digest, is_diffusion_folder


@register
class Diffusion(Backend):
    """A folder with model_index.json, or a checkpoint of adapters on one; images follow from prompt and seed."""

    kind: ClassVar[str] = DIFFUSION
    form: ClassVar[str] = "a folder of diffusers, or adapters on one"
    example: ClassVar[str] = "./stable-diffusion-v1-5"
    roles: ClassVar[dict[Role, frozenset[Capability]]] = {"image_generator": frozenset({"seeds"})}
    placement: ClassVar[Placement] = Placement(gpus=1, threads=1)
    settings: ClassVar[tuple[str, ...]] = ("workers",)
    preload: ClassVar[tuple[str, ...]] = ("trainers.images.inference",)

    def recognises(self, reference: str) -> bool:
        place = os.path.expanduser(reference)
        if is_diffusion_folder(place):
            return True
        try:
            manifest = read_manifest(place)
        except ConfigError:
            return False  # no place that Quiver opens
        return manifest is not None and manifest.kind == "checkpoint" and FACT in manifest.facts

    def node(self, plan: GraphBuilder, reference: str) -> Node:
        place = os.path.expanduser(reference)
        if not is_diffusion_folder(place):
            return plan.existing(place, "checkpoint")
        folder = os.path.abspath(place)
        identity = self.identity_now(folder)
        assert identity is not None, f"{folder}: it is such a folder"
        return ExternalModel(label=stem(place), root=plan.root, reference=folder, backend=self.kind, identity=identity)

    def identity_now(self, url: str) -> Mapping[str, Any] | None:
        """The digest of a folder; a checkpoint of adapters has a manifest that says what it is."""
        if not is_diffusion_folder(url):
            return None
        return {"name": "diffusers", "version": 1, "params": {"content": base_digest(url)}}

    def takes(self, node: Node, role: Role, rows: Schema) -> Schema:
        """The text of the prompt."""
        return IMAGES.selecting("prompt")

    def steps(self, op: Op, role: Role, rows: Schema, rendering: Rendering, max_length: int | None) -> Sequence[Step]:
        """Of conversations the last turn."""
        return () if "prompt" in rows else (Step(name="texts", op=ImagePrompt()),)

    def open(self, url: str, role: Role, takes: Schema, placement: Placement) -> object:
        from trainers.images.inference import ImageModel

        return ImageModel(url, threads=placement.threads)
