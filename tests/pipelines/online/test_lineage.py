"""What the checkpoint of an online run says of itself, and in what precision the models of a step compute."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datakit.label import Logprobs, Rloo
from datakit.tokenize import Drawn
from pipelines.backends.checkpoint import Checkpoint
from pipelines.online import config
from pipelines.online.__main__ import execute
from pipelines.online.config import OnlineRun, settings_of
from pipelines.online.models import opened
from pipelines.recipes import Grpo
from quiver.show import lines
from schemas.dataset import Dataset
from schemas.store.commit import read_manifest
from tests.pipelines import judges
from tests.pipelines.online import runs
from tests.pipelines.online.test_recipe import planned
from tests.trainers import online


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("lineage")
    online.init(place)
    runs.prompts(place)
    sys.modules.setdefault("judges", judges)
    return place


def asking(folder: Path, name: str, **changes: Any) -> OnlineRun:
    """A run of one step whose answers are read by the first checkpoint, as a `model`."""
    given = runs.online_run(folder, name, max_steps=1)
    columns = (("input_ids", "loss_mask", "others"),)
    answers = (*given.step.answers, *settings_of((Drawn(), Logprobs(columns=columns, **changes))))
    models = {**given.models, "model": str(folder / "init")}
    run = replace(given.run, paths=replace(given.run.paths, task_key="1" * 64))
    return replace(given, run=run, step=replace(given.step, answers=answers), models=models)


def test_a_checkpoint_says_what_its_steps_did_and_which_models_they_asked(folder: Path) -> None:
    given = asking(folder, "asked")
    execute(given)
    manifest, init = read_manifest(given.run.paths.out), read_manifest(str(folder / "init"))
    assert manifest is not None and init is not None
    step = manifest.op["params"]["step"]
    assert manifest.op["name"] == "online" and manifest.op["params"]["algorithm"] == "sft"
    assert [op["name"] for op in step["answers"]["params"]["ops"]][-2:] == ["tokenize.drawn", "label.logprobs"]
    assert (step["prompts"], step["updates"]) == (runs.PROMPTS_OF_STEP, 1)
    parents = {parent.name: parent.content_digest for parent in manifest.parents}
    prompts = Dataset.open(str(folder / "prompts")).content_digest
    assert parents == {"data": prompts, "init": init.content_digest, "model": init.content_digest}
    assert manifest.op["models"] == {"scorer": "judges:letters"}
    shown = "".join("".join(lines(given.run.paths.out, 3)).split())
    assert "label.logprobs" in shown and "judges:letters" in shown
    execute(given)  # it is there, and taken for what it is


def test_two_methods_of_one_algorithm_can_be_told_apart(folder: Path) -> None:
    learning = runs.online_run(folder, "never").run.learning
    kinds = [runs.online_run(folder, "never", rows=(Drawn(), op)).step for op in (Rloo(), Rloo(voters="ended"))]
    first, second = (config.done(learning, step) for step in kinds)
    assert first["name"] == second["name"] and first["params"] != second["params"]


def test_a_model_computes_in_the_precision_that_its_operation_asks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, opening = [], Checkpoint.open

    def watched(self: Any, url: str, role: Any, takes: Any, placement: Any) -> object:
        seen.append(placement.precision)
        return opening(self, url, role, takes, placement)

    monkeypatch.setattr(Checkpoint, "open", watched)
    for changes in ({}, {"precision": "bf16"}):
        given = asking(folder, "precise", **changes)
        prompts = Dataset.open(str(folder / "prompts"))
        opened(given, given.step.answering, prompts)
    assert seen == ["fp32", "bf16"]


def test_a_node_does_what_its_checkpoint_will_say(tmp_path: Path) -> None:
    made = planned(Grpo, tmp_path).policy
    assert made.work == config.done(made.training.learning, made.step)
