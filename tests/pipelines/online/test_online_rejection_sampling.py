"""Online rejection sampling: of the answers to a prompt the best is learnt, as it was drawn."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.online.__main__ import execute
from pipelines.online.config import settings_of
from pipelines.recipes import OnlineRejectionSampling
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from tests.pipelines import judges
from tests.pipelines.online import runs
from tests.pipelines.online.test_recipe import planned
from tests.trainers import online
from trainers import engine
from trainers.registry import configured


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("online best of")
    online.init(place)
    runs.prompts(place)
    sys.modules.setdefault("judges", judges)
    return place


def test_the_best_answer_of_every_prompt_is_learnt(folder: Path) -> None:
    """Held against a loop written here; the rest stands beside the rows, with its reward and what was needed."""
    rows = OnlineRejectionSampling().arrangement.made_for(configured("sft", {})[0])
    runs_of = [runs.online_run(folder, name, rows=rows, max_steps=2) for name in ("whole", "by hand")]
    execute(runs_of[0])
    curve = runs.outcome(runs_of[0])["curve"]
    places = sorted((runs_of[0].run.paths.folder / "rollouts").glob("step=*-????????"))
    with engine.open(runs_of[1].run) as policy:
        for place, line in zip(places, curve, strict=True):
            answers, kept = Dataset.open(f"{place}.answers").read().to_pylist(), Dataset.open(str(place))
            best: dict[str, dict[str, object]] = {}
            for one in answers:
                there = best.get(one["prompt_id"])
                best[one["prompt_id"]] = one if there is None or one["reward"] > there["reward"] else there
            rows_of = kept.read()
            assert rows_of["sample_id"].to_pylist() == [one["sample_id"] for one in best.values()]
            expected = [[*one["prompt_ids"], *one["response_ids"]] for one in best.values()]  # type: ignore[misc]
            assert rows_of["input_ids"].to_pylist() == expected
            gone = kept.read_rejected()
            assert gone is not None and set(gone["reason"].to_pylist()) == {"not-best"}
            assert (line["rows"], line["dropped"]) == (6, 6) and policy.learn(rows_of)["loss"] == line["loss"]
            assert line["reward"] == pytest.approx(sum(one["reward"] for one in answers) / 12), "of all answers"


def test_the_recipe_says_what_its_flags_ask(tmp_path: Path) -> None:
    made = planned(OnlineRejectionSampling, tmp_path, best=2, above=0.5).policy
    assert [one.name for one in made.step.rows] == ["filter.where", "filter.best_of", "tokenize.drawn"]
    assert (made.step.rows[0].params["predicate"], made.step.rows[1].params["k"]) == ("reward > 0.5", 2)
    assert (made.training.learning.algorithm, made.training.learning.global_batch_size) == ("sft", 128)
    with pytest.raises(ConfigError, match=r"nothing can be learnt: filter\.best_of"):
        planned(OnlineRejectionSampling, tmp_path, samples_per_prompt=1)
    with pytest.raises(ConfigError, match="dpo does not learn from answers one by one"):
        planned(OnlineRejectionSampling, tmp_path, algorithm="dpo")
    assert replace(made.step, rows=settings_of(())).faults(), "rows are what is learnt"
