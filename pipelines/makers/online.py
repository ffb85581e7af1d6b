"""The Luigi task of an online run: started, watched and shown as any other training."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from pipelines.cli.console import Stage, say_of
from pipelines.graph.node import Node
from pipelines.graph.opening import identity_of
from pipelines.makers.training import Fit
from pipelines.online import config
from pipelines.online.config import OnlineRun
from pipelines.online.node import OnlineCheckpoint
from pipelines.runtime import settings
from pipelines.runtime.tasks import makes
from schemas.dataset import Dataset
from schemas.errors import QuiverError, counted
from schemas.manifest import MANIFEST
from schemas.run_layout import ROLLOUTS
from schemas.shards import verified_bytes
from trainers.config import Run
from trainers.launch.launch_result import saved_step


def reference_of(model: Node) -> str:
    """What names `model`, which is there by now, with the settings behind its first reference."""
    return ",".join([model.url, *(f"{name}={value}" for name, value in model.placement_settings.items())])


def spoilt(folder: Path) -> list[QuiverError]:
    """What is wrong with the rollouts in a run's folder, by their manifests and the sizes of their files: one fault for
    each dataset that is not as it was written.
    """
    faults = []
    for manifest in sorted(folder.glob(f"{ROLLOUTS}/*/{MANIFEST}")):
        try:
            dataset = Dataset.open(str(manifest.parent))
            for file in (*dataset.shards, *dataset.rejected):
                with closing(verified_bytes(dataset.url, file, "size")):
                    pass
        except QuiverError as error:
            faults.append(error)
    return faults


@makes(OnlineCheckpoint)
class FitOnline(Fit):
    """Makes a checkpoint: one online run, in a process of its own."""

    program: ClassVar[str] = "pipelines.online"

    def make(self, node: OnlineCheckpoint, stage: Stage) -> str:  # type: ignore[override]
        """As any training; rollouts that were lost meanwhile are reported: a run that goes on does not read those again
        from which it has learnt.
        """
        folder = node.placed().paths.folder
        faults = spoilt(folder) if saved_step(folder) else []
        if faults:
            count = counted(len(faults), "dataset")
            say_of(node.label, f"warning: {count} of rollouts not as written, the first of them: {faults[0].what}")
        return super().make(node, stage)

    def write(self, file: Path, node: OnlineCheckpoint, run: Run) -> None:  # type: ignore[override]
        """The training with what its steps are."""
        models = {name: reference_of(model) for name, model in node.models.items()}
        planned_models = {name: what for name, model in node.models.items() if (what := identity_of(model)) is not None}
        beside = {name: learner.placed(name, node, run) for name, learner in node.learners.items()}
        share = settings.quiver_config().max_rejected
        given: dict[str, Any] = {"models": models, "learners": beside, "guards": node.guards, "max_rejected": share}
        given |= {"planned_models": planned_models, "keep_rollouts": node.keep_rollouts}
        config.write(file, OnlineRun(run=run, step=node.step, **given))
