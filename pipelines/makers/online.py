"""The Luigi task of an online run: started, watched and shown as any other training."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pipelines.graph.node import Node
from pipelines.makers.training import Fit
from pipelines.online import config
from pipelines.online.config import OnlineRun
from pipelines.online.node import OnlineCheckpoint
from pipelines.runtime import settings
from pipelines.runtime.tasks import makes
from trainers.config import Run


def reference_of(model: Node) -> str:
    """What names `model`, which is there by now, with the settings behind its first reference."""
    return ",".join([model.url, *(f"{name}={value}" for name, value in model.placement_settings.items())])


@makes(OnlineCheckpoint)
class FitOnline(Fit):
    """Makes a checkpoint: one online run, in a process of its own."""

    program: ClassVar[str] = "pipelines.online"

    def write(self, file: Path, node: OnlineCheckpoint, run: Run) -> None:  # type: ignore[override]
        """The training with what its steps are."""
        models = {name: reference_of(model) for name, model in node.models.items()}
        critic = None if node.critic is None else node.critic.placed(node, run)
        share = settings.quiver_config().max_rejected
        config.write(file, OnlineRun(run=run, step=node.step, models=models, critic=critic, max_rejected=share))
