"""Several rewards at once, each a column and a curve; answers that were cut are not learnt where that is asked for."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.filter import Where
from datakit.generate import Complete
from datakit.label import DistinctN, GroupAdvantage, Reward, Weighted
from datakit.tokenize import Drawn
from pipelines.online.__main__ import execute
from pipelines.online.arrangement import Arrangement
from pipelines.online.config import settings_of
from pipelines.recipes import Grpo, OnlineDpo, OnlineRejectionSampling, Ppo, Reinforce, ReinforcePp
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from tests.pipelines import judges
from tests.pipelines.online import runs
from tests.pipelines.online.test_recipe import nothing_configured, own, planned  # noqa: F401 - a fixture
from tests.trainers import online


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("several")
    online.init(place)
    runs.prompts(place)
    sys.modules.setdefault("judges", judges)
    return place


def test_rewards_are_columns_and_their_weighted_sum_is_learnt(folder: Path) -> None:
    """`judges:letters` counts letters; words that stand once cost up to two."""
    given = runs.online_run(folder, "run", rows=(Drawn(), GroupAdvantage()), algorithm="policy_gradient", max_steps=2)
    draw = given.step.answers[0].op
    assert isinstance(draw, Complete)
    variety = DistinctN(n=1, output="reward_variety")
    weighted = Weighted(weights=(("reward_model", 1.0), ("reward_variety", -2.0)))
    step = replace(given.step, answers=settings_of((draw, Reward(column="reward_model"), variety, weighted)))
    execute(replace(given, step=step, max_rejected=1.0))
    for number, line in enumerate(runs.outcome(given)["curve"], 1):
        [place] = (given.run.paths.folder / "rollouts").glob(f"step={number:06d}-????????.answers")
        rows = Dataset.open(str(place)).read()
        letters = [float(len(text)) for text in rows["response"].to_pylist()]
        words = [text.split() for text in rows["response"].to_pylist()]
        expected = [a - 2 * len({*b}) / len(b) for a, b in zip(letters, words, strict=True)]
        assert rows["reward_model"].to_pylist() == letters and rows["reward"].to_pylist() == pytest.approx(expected)
        assert line["reward_model"] == pytest.approx(np.mean(letters))
        assert line["reward"] == pytest.approx(np.mean(expected)) and "reward_variety" in line


def test_the_recipe_weighs_what_its_flag_names(tmp_path: Path) -> None:
    both = own(tmp_path, reward="judges:letters", verifier='{"kind": "number"}')
    made = planned(Grpo, tmp_path, **both, rewards={"verifier": 1, "model": 0.5}).policy
    ops = [one.op for one in made.step.answers[1:]]
    assert [op.name for op in ops] == ["label.verify", "label.reward", "label.weighted"]
    assert ops[-1] == Weighted(weights=(("reward_verifier", 1.0), ("reward_model", 0.5)))
    assert {*made.models} == {"scorer"} and made.task_key != planned(Grpo, tmp_path, **both).policy.task_key
    one = planned(Grpo, tmp_path, **both, rewards={"model": 2.0}).policy
    assert [op.op.name for op in one.step.answers[1:]] == ["label.reward", "label.weighted"]


@pytest.mark.parametrize("rewards", [{"taste": 1}, {"model": "much"}, {"model": True}, {"model": float("nan")}])
def test_weights_that_are_none_are_refused(rewards: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--rewards weighs something else") as caught:
        planned(Grpo, tmp_path, rewards=rewards)
    assert caught.value.next.startswith("--rewards")


def test_a_reward_that_is_not_there_is_refused_with_the_flag_that_gives_it(tmp_path: Path) -> None:
    verified = own(tmp_path, verifier='{"kind": "number"}')
    with pytest.raises(ConfigError, match="the setup own has no reward") as caught:
        planned(Grpo, tmp_path, **verified, rewards={"verifier": 1, "model": 1})
    assert caught.value.next == "--own-reward my_reward:score"
    with pytest.raises(ConfigError, match="--reward-source: --rewards names"):
        planned(Grpo, tmp_path, **verified, rewards={"verifier": 1}, reward_source="verifier")


ORDERS: list[tuple[Any, dict[str, Any], list[str]]] = [
    (Grpo, {}, ["tokenize.drawn", "label.group_advantage", "filter.where"]),
    (Reinforce, {}, ["tokenize.drawn", "label.rloo", "filter.where"]),
    (Ppo, {}, ["filter.where", "tokenize.drawn"]),
    (ReinforcePp, {}, ["filter.where", "tokenize.drawn"]),
    (ReinforcePp, {"baseline": "mean"}, ["online.logprobs", "label.group_advantage", "filter.where", "label.kl"]),
    (OnlineDpo, {}, ["filter.where", "tokenize.drawn", "blend.pair"]),
    (OnlineRejectionSampling, {}, ["filter.where", "filter.best_of"]),
    (Grpo, {"max_rounds": 2}, ["filter.zero_variance", "tokenize.drawn", "label.group_advantage", "filter.where"]),
]


@pytest.mark.parametrize(("kind", "more", "names"), ORDERS)
def test_where_answers_that_were_cut_go(kind: Any, more: dict[str, Any], names: list[str], tmp_path: Path) -> None:
    step = planned(kind, tmp_path, mask_cut=True, **more).policy.step
    made = [one.name for one in step.rows]
    first = made.index(names[0])
    assert made[first : first + len(names)] == names
    assert planned(kind, tmp_path, **more).policy.step.rows != step.rows


def test_cut_answers_are_not_learnt_and_their_rewards_count_in_the_group(folder: Path) -> None:
    rows = Arrangement(rows=(Drawn(), GroupAdvantage(scale="none"))).without_cut().rows
    assert isinstance(rows[-1], Where)
    given = runs.online_run(folder, "cut", rows=rows, algorithm="policy_gradient", max_steps=1)
    execute(given)
    [place] = (given.run.paths.folder / "rollouts").glob("step=000001-????????")
    learnt, answers = (Dataset.open(f"{place}{part}").read().to_pylist() for part in ("", ".answers"))
    ended = {row["sample_id"] for row in answers if row["finish_reason"] != "length"}
    assert 0 < len(ended) < len(answers), "some were cut and some were not"
    assert {row["sample_id"] for row in learnt} == ended
    for row in learnt:
        group = [one["reward"] for one in answers if one["prompt_id"] == row["prompt_id"]]
        assert row["advantage"] == pytest.approx(row["reward"] - np.mean(group), abs=1e-9)
    rejected = Dataset.open(str(place)).read_rejected()
    assert {*rejected["sample_id"].to_pylist()} == {row["sample_id"] for row in answers} - ended
