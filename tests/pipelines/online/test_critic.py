"""PPO with a critic: its values are those of the weights before the step, it learns the same rows, and it goes on."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.online import StepLogprobs
from pipelines.online import config
from pipelines.online.__main__ import execute
from pipelines.online.config import settings_of
from pipelines.online.learner import LearnerRun
from pipelines.online.learners.critic import explained_variance
from pipelines.recipes import Ppo
from schemas.dataset import Dataset
from schemas.errors import ConfigError, Stopped
from schemas.store.commit import read_manifest
from tests.pipelines import judges
from tests.pipelines.online import runs
from tests.pipelines.online.test_recipe import nothing_configured, own, planned  # noqa: F401 - a fixture
from tests.trainers import online
from trainers import engine
from trainers.config import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("critic")
    online.init(place)
    runs.prompts(place)
    sys.modules.setdefault("judges", judges)
    return place


THREE: dict[str, int] = {"updates": 2, "max_steps": 6}
"""Three steps of two updates each, behind two rounds of warm-up: calls 1 to 4 draw these, 9 and 10 the last step."""


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[config.OnlineRun, list[str]]:
    """A run that nobody disturbs, and what it drew."""
    given = runs.critic_run(folder, "whole", **THREE)
    with runs.watched(folder):
        execute(given)
    return given, runs.draws(folder)


def critic_of(given: config.OnlineRun) -> Run:
    """The training of its critic."""
    return given.learners["critic"].run


def rounds(given: config.OnlineRun, name: str) -> list[Path]:
    return sorted((given.run.paths.folder / "rollouts").glob(f"{name}=*-????????"))


def expected_of(row: dict[str, Any], lam: float) -> tuple[list[float], list[float]]:
    """Advantages and returns of an answer, in float64, as Schulman et al. (2015) and NeMo-Aligner have them."""
    counted = np.array(row["loss_mask"]) == 1
    kl = np.abs(np.array(row["old_logprobs"], np.float64) - row["ref_logprobs"])[counted]
    values = np.append(np.array(row["values"], np.float64)[counted], 0.0)
    rewards = -0.1 * kl
    rewards[-1] += row["reward"]
    advantages, carry = np.zeros(len(kl)), 0.0
    for at in reversed(range(len(kl))):
        carry = rewards[at] + values[at + 1] - values[at] + lam * carry
        advantages[at] = carry
    return advantages.tolist(), (advantages + values[:-1]).tolist()


def test_a_step_is_what_the_papers_say(whole: tuple[config.OnlineRun, list[str]], folder: Path) -> None:
    """Held against numpy and against a loop written here: warm-up, values before the step, both networks learn."""
    given = whole[0]
    curve = runs.outcome(given)["curve"]
    by_hand = runs.critic_run(folder, "by hand", **THREE)
    with engine.open(by_hand.run) as policy, engine.open(critic_of(by_hand)) as critic:
        places = [(place, False) for place in rounds(given, "warmup")]
        places += [(place, True) for place in rounds(given, "step")]
        assert [learns for _, learns in places] == [False] * runs.WARMUP + [True] * 3
        for place, learns in places:
            kept = Dataset.open(str(place))
            assert kept.facts["generator"] == policy.weights_checksum and kept.facts["model"] == critic.weights_checksum
            rows = kept.read()
            texts = [np.array(ids) for ids in rows["input_ids"].to_pylist()]
            assert rows["values"].to_pylist() == critic.token_model().values(texts).to_pylist()
            made = [expected_of(row, 0.9) for row in rows.to_pylist()]
            drawn = np.concatenate(rows["loss_mask"].to_pylist()) == 1
            raw = np.concatenate([advantages for advantages, _ in made])
            white = (raw - raw.mean()) / np.sqrt(raw.var() + 1e-8)
            assert np.concatenate(rows["advantages"].to_pylist())[drawn] == pytest.approx(white, abs=1e-5)
            returns = np.concatenate([each for _, each in made])
            assert np.concatenate(rows["returns"].to_pylist())[drawn] == pytest.approx(returns, abs=1e-5)
            half = rows.num_rows // 2
            for part in (rows.slice(0, half), rows.slice(half)):
                loss = critic.learn(part)["loss"]
                if learns:
                    line = curve[policy.steps]
                    assert (line["critic_loss"], line["loss"]) == (loss, policy.learn(part)["loss"])
        for paths, trainer in ((given.run.paths, policy), (critic_of(given).paths, critic)):
            there = read_manifest(paths.out)
            assert there is not None and trainer.save().facts["weights_digest"] == there.facts["weights_digest"]
    manifest = read_manifest(given.run.paths.out)
    assert manifest is not None and "critic" in [parent.name for parent in manifest.parents]


def test_explained_variance_by_hand() -> None:
    """Returns 1, 2, 3 and values 1, 2, 2: 1 - var(0, 0, 1) / var(1, 2, 3) = 1 - (2/9) / (2/3)."""
    columns = {"loss_mask": [[0, 1, 1], [0, 1]], "returns": [[9.0, 1, 2], [9.0, 3]], "values": [[7.0, 1, 2], [7.0, 2]]}
    kinds = {"loss_mask": pa.int8(), "returns": pa.float32(), "values": pa.float32()}
    rows = pa.table({name: pa.array(column, pa.list_(kinds[name])) for name, column in columns.items()})
    assert explained_variance(rows) == pytest.approx(1 - (2 / 9) / (2 / 3))
    assert explained_variance(rows.slice(1)) == 0.0, "one return: nothing to explain"


@pytest.mark.parametrize(("call", "when"), [(4, "after"), (9, "before")])
def test_a_run_with_a_critic_that_is_cut_off_goes_on_and_draws_nothing_twice(
    call: int, when: str, whole: tuple[config.OnlineRun, list[str]], folder: Path, tmp_path: Path
) -> None:
    """In the warm-up, before any save, and in step 3: the newest save holds step 2, with the critic's beside it."""

    undisturbed, drawn = whole
    cut = runs.critic_run(folder, str(tmp_path / "cut"), **THREE)
    runs.cut_off(tmp_path, cut, call, when)
    again = runs.finished(tmp_path, cut)
    assert runs.outcome(cut) == runs.outcome(undisturbed) and set(again) == set(drawn)
    assert len(again) - len(set(again)) == (0 if when == "before" else 2)
    facts = [read_manifest(critic_of(given).paths.out).facts for given in (undisturbed, cut)]  # type: ignore[union-attr]
    assert facts[0] == facts[1]


def test_a_critic_that_cannot_be_is_refused(folder: Path) -> None:
    given = runs.critic_run(folder, "never")
    silent = replace(given.step, rows=settings_of(runs.LEARNT))
    short = replace(critic_of(given), learning=replace(critic_of(given).learning, max_steps=5))
    twice = replace(given.step, rows=(*given.step.rows, *settings_of((StepLogprobs(columns=("old_logprobs",)),))))
    faults: list[tuple[dict[str, Any], str]] = [
        ({"learners": {}}, "step asks a critic, and critic is missing"),
        ({"step": silent}, "step.rows has no label.values"),
        ({"learners": {"critic": LearnerRun(run=short, warmup=2)}}, "critic.max_steps 5 is not 7"),
        ({"learners": {"critics": given.learners["critic"]}}, "learners.critics is none of critic"),
        ({"step": twice}, "a column of online.logprobs twice"),
        ({"learners": {"critic": replace(given.learners["critic"], warmup=-1)}}, "critic.warmup -1 is below 0"),
    ]
    for changed, words in faults:
        with pytest.raises(ConfigError, match=words):
            replace(given, **changed)
    other = online.a_run(folder, "never critic", algorithm="value", max_steps=7, parallel={"tensor": 2})
    with pytest.raises(ConfigError, match=r"critic\.parallel is not run\.parallel"):
        replace(given, learners={"critic": LearnerRun(run=other, warmup=2)})


def test_the_recipe_says_what_its_flags_ask(tmp_path: Path) -> None:
    made = planned(Ppo, tmp_path).policy
    critic = made.learners["critic"]
    assert made.init is critic.init, "no reward model rewards answers"
    names = [one.name.partition(".")[2] for one in made.step.rows]
    assert names == ["drawn", "logprobs", "kl", "token_rewards", "values", "gae", "whiten"]
    assert made.step.logprobs == ("old_logprobs", "ref_logprobs")
    learning = critic.learning
    assert (learning.algorithm, learning.settings["clip"], learning.optim.lr) == ("value", 0.2, 1e-3)
    assert learning.max_steps == 60 + critic.warmup and critic.training.execution.save_every is None
    bare = planned(Ppo, tmp_path, kl_coefficient=0.0, whiten=False, value_clip=0.0, critic_rounds=0).policy
    assert [one.name for one in bare.step.rows][1:] == [
        "online.logprobs",
        "label.token_rewards",
        "label.values",
        "label.gae",
    ]
    assert bare.step.logprobs == ("old_logprobs",)
    assert bare.learners["critic"].learning.settings["clip"] is None
    rated = planned(Ppo, tmp_path, set=["critic.optim.lr=1e-5", "global_batch_size=128"]).policy
    learning = rated.learners["critic"].learning
    assert learning.optim.lr == 1e-5 and learning.max_steps == 60 + 4 * rated.learners["critic"].warmup
    changes: list[dict[str, Any]] = [
        {},
        {"set": ["critic.optim.lr=1e-5"]},
        {"critic_rounds": 1},
        {"lam": 0.9},
        {"reward_source": "model"},
        {"reward_source": "model", "critic_init": "policy"},
    ]
    keys = {planned(Ppo, tmp_path, **change).policy.task_key for change in changes}
    assert len(keys) == len(changes)


def test_a_critic_begins_with_the_reward_model_where_one_rewards(tmp_path: Path) -> None:
    judged = planned(Ppo, tmp_path, reward_source="model").policy
    assert judged.learners["critic"].init is judged.models["scorer"]
    with pytest.raises(ConfigError, match="no checkpoint that could be a critic") as caught:
        planned(Ppo, tmp_path, critic_init="reward", **own(tmp_path, reward="judges:letters"))
    assert caught.value.next == "--critic-init policy"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("cut", [{}, {"data": 2}, {"tensor": 2}], ids=["one", "DP2", "TP2"])
def test_a_process_with_a_critic_that_is_killed_or_stopped_goes_on(
    cut: dict[str, int], folder: Path, tmp_path: Path
) -> None:
    ranks, sizes = max([1, *cut.values()]), {"tensor": 2} if "tensor" in cut else {}
    given = [runs.critic_run(folder, str(tmp_path / name), parallel=sizes) for name in ("whole", "cut")]  # five steps
    first = runs.play(tmp_path, given[0], ranks=ranks)
    assert first.returncode == 0, first.stderr
    expected, drawn = runs.outcome(given[0]), runs.draws(tmp_path)
    assert runs.play(tmp_path, given[1], "before", "12", "SIGKILL", ranks=ranks).returncode
    stopped = runs.play(tmp_path, given[1], "after", "1", "SIGTERM", ranks=ranks)
    assert ranks > 1 or stopped.returncode == Stopped.code, stopped.stderr
    last = runs.play(tmp_path, given[1], ranks=ranks)
    assert last.returncode == 0, last.stderr
    assert runs.outcome(given[1]) == expected and sorted(runs.draws(tmp_path)) == sorted(drawn)
