"""Learners beside a policy: the steps drive whatever kinds are declared, each by what it says of itself."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from datakit.label import Logprobs
from datakit.op import Capability
from pipelines.online import config
from pipelines.online.__main__ import execute
from pipelines.online.config import OnlineRun, settings_of
from pipelines.online.learner import Learner, LearnerRun
from pipelines.online.learners import KINDS
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.store.commit import read_manifest
from tests.pipelines import judges
from tests.pipelines.online import runs
from tests.trainers import online
from trainers import engine


class Echo(Learner):
    """A network that learns every answer by likelihood, and says how likely it finds the next ones."""

    name: ClassVar[str] = "echo"
    answers: ClassVar[tuple[Capability, ...]] = ("logprobs",)

    def figures(self, rows: pa.Table) -> dict[str, float]:
        return {"echo_rows": float(rows.num_rows)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("learners")
    online.init(place)
    runs.prompts(place)
    sys.modules.setdefault("judges", judges)
    return place


def two(folder: Path, name: str) -> OnlineRun:
    """PPO of one step with a critic of two rounds of warm-up, and beside both an echo of one."""
    given = runs.critic_run(folder, name, max_steps=1)
    rows = (*given.step.rows, *settings_of((Logprobs(columns=(("input_ids", "loss_mask", "echoed"),)),)))
    echo = LearnerRun(run=online.a_run(folder, f"{name} echo", max_steps=2, save_every=None), warmup=1)
    return replace(given, step=replace(given.step, rows=rows), learners={**given.learners, "echo": echo})


def test_two_learners_answer_and_learn_each_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held against a loop written here: in the second round of warm-up the critic learns alone."""
    monkeypatch.setitem(KINDS, "echo", Echo)  # type: ignore[misc]
    given = two(folder, "two")
    file = folder / "two.json"
    config.write(file, given)
    assert config.read(str(file)) == given
    execute(given)
    kept = sorted((given.run.paths.folder / "rollouts").glob("*=*-????????"))
    rounds = [*(place for place in kept if place.name.startswith("warmup")), kept[0]]
    assert len(rounds) == 3 and kept[0].name.startswith("step")
    by_hand = two(folder, "by hand")
    with engine.open(by_hand.learners["echo"].run) as echo, engine.open(by_hand.learners["critic"].run) as critic:
        for number, place in enumerate(rounds):
            rows = Dataset.open(str(place)).read()
            texts = [np.array(ids) for ids in rows["input_ids"].to_pylist()]
            assert rows["values"].to_pylist() == critic.token_model().values(texts).to_pylist()
            assert rows["echoed"].to_pylist() == echo.token_model().logprobs(texts).to_pylist()
            losses = {"critic_loss": critic.learn(rows)["loss"]}
            if number != 1:
                losses["echo_loss"] = echo.learn(rows)["loss"]
        for name, trainer in (("echo", echo), ("critic", critic)):
            there = read_manifest(given.learners[name].run.paths.out)
            assert there is not None and trainer.save().facts["weights_digest"] == there.facts["weights_digest"]
    (line,) = runs.outcome(given)["curve"]
    assert {name: line[name] for name in losses} == losses and line["echo_rows"] == rows.num_rows
    manifest = read_manifest(given.run.paths.out)
    assert manifest is not None and {"critic", "echo"} <= {parent.name for parent in manifest.parents}
    assert manifest.op["params"]["step"]["critic_warmup"] == 2 and manifest.op["params"]["step"]["echo_warmup"] == 1


def test_a_learner_of_no_kind_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"learners\.echo is none of critic"):
        two(folder, "never")
