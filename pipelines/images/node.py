"""The checkpoint of a training of an image model, as a node of the graph."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pipelines.graph.backend import backend_of
from pipelines.graph.node import Node, rows_of
from pipelines.graph.opening import identity_of
from pipelines.graph.order import graph_property
from pipelines.graph.plan import Plan
from schemas import IMAGES
from schemas.errors import ConfigError, printable
from schemas.manifest import task_key_of
from schemas.run_layout import RECORDS_END
from trainers.config import Paths
from trainers.images.config import ImageRun, ImageTraining

DIFFUSION = "diffusion"
"""The kind of the backend that draws images."""
PROMPTS = IMAGES.selecting("prompt_id", "prompt")


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageCheckpoint(Node):
    """Adapters that `training` makes: the `base` draws the prompts `data` and learns what `reward` says of it."""

    trains: ClassVar[bool] = True
    ranks: ClassVar[int] = 1

    training: ImageTraining
    data: Node
    base: Node
    reward: Node

    @graph_property
    def task_key(self) -> str:
        """Settings, and keys of prompts, base and reward."""
        named = {name: node.task_key for name, node in self.parents.items()}
        return task_key_of(self.work, named, {}, self.training.learning.seed)

    @property
    def kind(self) -> str:
        return "checkpoint"

    @property
    def opened_by(self) -> str:
        return DIFFUSION

    @functools.cached_property
    def work(self) -> Mapping[str, Any]:
        return self.training.learning.op

    @property
    def schema(self) -> None:
        return None

    @property
    def tokenizer_id(self) -> str:
        """None that rows of tokens could speak."""
        return ""

    @property
    def parents(self) -> Mapping[str, Node]:
        return {"data": self.data, "base": self.base, "image_scorer": self.reward}

    def placed(self) -> ImageRun:
        """The training with its paths."""
        paths = Paths(
            data=self.data.url,
            init=self.base.url,
            out=self.url,
            task_key=self.task_key,
            records=f"{self.url}{RECORDS_END}",
        )
        given: dict[str, Any] = {"learning": self.training.learning, "execution": self.training.execution}
        given |= {"reward": self.reward.url, "reward_identity": identity_of(self.reward)}
        return ImageRun(**given, paths=paths, base=base_content(self.base))


def base_content(base: Node) -> str:
    """The digest of the model in a folder of diffusers."""
    return str(base.work["params"]["content"])


def image_checkpoint(plan: Plan, node: ImageCheckpoint) -> Node:
    """`node` as a part of `plan`, checked: the base is a whole model, the reward reads images, rows are prompts."""
    return plan.add(node, _check)


def _check(node: ImageCheckpoint) -> None:
    node.training.check(node.label)
    if node.base.kind != DIFFUSION:
        raise ConfigError(
            "wrong-kind",
            f"{node.label} starts from a folder of diffusers, not from {printable(node.base.name)}",
            expected="a folder with model_index.json",
            found=f"a {node.base.kind}",
            kept="nothing was started",
            next="luigi --module pipelines ExportModel --model CHECKPOINT makes a folder of adapters and their base",
        )
    backend = backend_of(node.reward)
    if "image_scorer" not in backend.roles:
        raise ConfigError(
            "wrong-role",
            f"{node.label}: {backend.form} can reward no images",
            expected="module:function",
            found=printable(node.reward.name),
            kept="nothing was started",
        )
    backend.takes(node.reward, "image_scorer", IMAGES)
    rows_of(node.data).requires(PROMPTS, f"{node.label} ({node.work['name']})")
