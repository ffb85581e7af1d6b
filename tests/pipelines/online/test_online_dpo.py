"""Online DPO: the pairs of a step are tokens that were drawn, held against the first policy, and it goes on."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.online.__main__ import execute
from pipelines.online.arrangement import Arrangement
from pipelines.online.config import OnlineRun, settings_of
from pipelines.recipes import OnlineDpo
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.store.commit import read_manifest
from tests.pipelines import judges
from tests.pipelines.online import runs
from tests.pipelines.online.test_recipe import nothing_configured, planned  # noqa: F401 - a fixture
from tests.trainers import online
from trainers import engine
from trainers.engine.inference.frozen import open_frozen
from trainers.registry import configured

BETA = 0.3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("online dpo")
    online.init(place)
    runs.prompts(place)
    sys.modules.setdefault("judges", judges)
    return place


def dpo_run(folder: Path, name: str, **changes: Any) -> OnlineRun:
    """Three steps over pairs, as the recipe arranges them."""
    given = runs.online_run(folder, name, **{"algorithm": "dpo", "settings": {"beta": BETA}, "max_steps": 3, **changes})
    rows = OnlineDpo(max_pairs=2).arrangement.made_for(configured("dpo", {})[0])
    return replace(given, step=replace(given.step, rows=settings_of(rows)))


def test_a_step_is_what_the_paper_says(folder: Path) -> None:
    """Held against a loop written here: which answers pair, what the first policy gives them, the loss in numpy."""
    given = dpo_run(folder, "whole")
    execute(given)
    curve = runs.outcome(given)["curve"]
    first = open_frozen(str(folder / "init"))
    places = sorted((given.run.paths.folder / "rollouts").glob("step=*-????????"))
    assert len(places) == 3
    with engine.open(dpo_run(folder, "by hand").run) as policy:
        for place, line in zip(places, curve, strict=True):
            answers, kept = Dataset.open(f"{place}.answers").read(), Dataset.open(str(place))
            rows = kept.read()
            by_prompt: dict[str, list[dict[str, Any]]] = {}
            for one in answers.to_pylist():
                by_prompt.setdefault(one["prompt_id"], []).append(one)
            expected = [
                sorted(two, key=lambda one: -one["reward"])
                for two in by_prompt.values()
                if two[0]["reward"] != two[1]["reward"]
            ]
            assert rows["prompt_id"].to_pylist() == [two[0]["prompt_id"] for two in expected]
            sums: dict[str, Any] = {}
            for side, at in (("chosen", 0), ("rejected", 1)):
                ids = [two[at]["prompt_ids"] + two[at]["response_ids"] for two in expected]
                assert rows[f"{side}_ids"].to_pylist() == ids
                assert rows[f"{side}_sample_id"].to_pylist() == [two[at]["sample_id"] for two in expected]
                texts, before = [np.array(row) for row in ids], [len(two[at]["prompt_ids"]) for two in expected]
                for name, model in (("ref", first), ("own", policy.token_model())):
                    logprobs = model.logprobs(texts).to_pylist()
                    pairs = zip(logprobs, before, strict=True)
                    sums[f"{name} {side}"] = np.array([np.sum(row[start:]) for row, start in pairs])
                assert rows[f"ref_logprob_{side}"].to_pylist() == pytest.approx(sums[f"ref {side}"].tolist(), abs=1e-4)
            margin = sums["own chosen"] - sums["ref chosen"] - sums["own rejected"] + sums["ref rejected"]
            loss = np.mean(np.log1p(np.exp(-BETA * margin)))
            learnt = policy.learn(rows)
            assert learnt["loss"] == line["loss"] == pytest.approx(loss, abs=1e-4)
            assert line["reward"] == pytest.approx(np.mean(answers["reward"].to_pylist()))
            gone = kept.read_rejected()
            tied = 0 if gone is None else gone["reason"].to_pylist().count("tied")
            assert tied == answers.num_rows - 2 * rows.num_rows
        made = read_manifest(given.run.paths.out)
        assert made is not None and policy.save().facts["weights_digest"] == made.facts["weights_digest"]
    assert curve[0]["loss"] == pytest.approx(np.log(2), abs=1e-5), "the first step begins with the first policy"


def test_a_run_that_is_cut_off_goes_on(folder: Path, tmp_path: Path) -> None:
    whole, cut = (
        dpo_run(folder, str(tmp_path / "one"), save_every=1),
        dpo_run(folder, str(tmp_path / "two"), save_every=1),
    )
    drawn = runs.finished(tmp_path, whole)
    runs.cut_off(tmp_path, cut, 6)
    again = runs.finished(tmp_path, cut)
    assert runs.outcome(whole) == runs.outcome(cut) and sorted(again) == sorted(drawn)


def test_the_recipe_says_what_its_flags_ask(tmp_path: Path) -> None:
    made = planned(OnlineDpo, tmp_path, samples_per_prompt=4, max_pairs=2, pairs="all_pairs", margin=0.5).policy
    names = [one.name for one in made.step.rows]
    assert names == ["tokenize.drawn", "blend.pair", "filter.not_null", "label.logprobs"]
    pairing = made.step.rows[1].params
    assert (pairing["rule"], pairing["max_pairs"], pairing["margin"]) == ("all_pairs", 2, 0.5)
    learning = made.training.learning
    assert (learning.algorithm, learning.settings["beta"], learning.global_batch_size) == ("dpo", 0.1, 64 * 2)
    assert planned(OnlineDpo, tmp_path, set=["global_batch_size=16"]).policy.step.updates == 4
    for algorithm in ("ipo", "rpo", "simpo"):
        planned(OnlineDpo, tmp_path, algorithm=algorithm)
    with pytest.raises(ConfigError, match=r"--samples-per-prompt 1 nothing can be learnt: blend\.pair"):
        planned(OnlineDpo, tmp_path, samples_per_prompt=1)
    for algorithm in ("policy_gradient", "kto", "sft"):
        with pytest.raises(ConfigError, match=f"{algorithm} learns from no pairs"):
            planned(OnlineDpo, tmp_path, algorithm=algorithm)


def test_without_a_first_policy_pairs_are_held_against_nothing(folder: Path) -> None:
    from tests.trainers import toys

    with pytest.raises(ConfigError, match=r"without run\.init there is no first policy"):
        dpo_run(folder, "never", model=toys.MODEL, init=...)
    assert isinstance(OnlineDpo().arrangement, Arrangement)
