"""SteerLm: the texts that are learnt and asked for, to the letter, and what the table says."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from commands import luigi

from pipelines.commands.requesting import Requesting
from pipelines.graph.plan import Plan
from pipelines.recipes import SteerLm
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from tests import pages
from tests.pipelines import judges

ROWS = [{"prompt": f"Say {n}", "response": "a" * (n % 19 + 1)} for n in range(60)]


@pytest.mark.parametrize("settings", [{"steered": ["size"]}, {"others": {"size": 1}}])
def test_an_attribute_that_is_none_is_refused(place: Path, settings: dict[str, object]) -> None:
    recipe = SteerLm(model="model", data="rows.jsonl", reward="judges:letters", **settings)
    assert isinstance(recipe, Requesting)
    with pytest.raises(ConfigError, match="size is no attribute"):
        recipe.results(Plan(str(place / "out")))


@pytest.mark.parametrize("name", ["a:b", "a,b", " a", "a\nb", "\x1b[31m", "", 5, None, ["a"]])
def test_an_attribute_whose_name_the_text_cannot_hold_is_refused(place: Path, name: object) -> None:
    recipe = SteerLm(model="model", data="rows.jsonl", reward="judges:letters", attributes=[name])
    with pytest.raises(ConfigError) as fault:
        recipe.results(Plan(str(place / "out")))
    assert fault.value.slug == "attributes" and "is no name of an attribute" in fault.value.what


@pytest.mark.parametrize("settings", [{"levels": []}, {"levels": [1, "x"]}, {"levels": [True]}, {"levels": [[1]]}])
def test_levels_that_are_no_numbers_are_refused(settings: dict[str, Any]) -> None:
    recipe = SteerLm(model="model", data="rows.jsonl", reward="judges:letters", **settings)
    with pytest.raises(ConfigError, match=r"is no number|nothing to ask for") as fault:
        _ = recipe.requested_levels
    assert fault.value.slug == "levels"


@pytest.mark.parametrize(
    "settings",
    [
        {"levels": [10**400]},
        {"levels": [0.5, 1.5, 2.5]},
        {"levels": [0, 5]},
        {"levels": [-1]},
        {"others": {"humor": 1.5}},
    ],
)
def test_a_level_that_the_text_does_not_say_is_refused(place: Path, settings: dict[str, Any]) -> None:
    """A label says whole numbers of 0 to 4 (NeMo-Aligner's): 1.5 would be asked for as 2, and 5 as 4."""
    recipe = SteerLm(model="model", data="rows.jsonl", reward="judges:letters", **settings)
    with pytest.raises(ConfigError, match="cannot be asked for") as fault:
        recipe.results(Plan(str(place / "out")))
    assert fault.value.slug == "levels" and f"--{next(iter(settings))}" in fault.value.what


@pytest.mark.parametrize("algorithm", ["dpo", "rm_regression"])
def test_an_algorithm_that_does_not_learn_answers_is_refused_as_it_is_planned(place: Path, algorithm: str) -> None:
    recipe = SteerLm(model="model", data="rows.jsonl", reward="judges:letters", algorithm=algorithm)
    with pytest.raises(ConfigError, match=f"{algorithm} does not learn from answers one by one") as fault:
        recipe.results(Plan(str(place / "out")))
    assert (fault.value.slug, fault.value.next) == ("bad-setting", "--algorithm sft")


def only(folder: Path, name: str) -> Dataset:
    [made] = (folder / "quiver-data/steerlm/rows").glob(f"{name}-????????")
    return Dataset.open(str(made))


@pytest.mark.slow
def test_from_files_to_the_table(tmp_path: Path) -> None:
    pages.model(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    flags = ["--model", "model", "--data", "rows.jsonl", "--reward", "judges:letters", "--max-new-tokens", "6"]
    more = ["--attributes", '["toxicity", "verbosity"]', "--steered", '["verbosity"]', "--levels", "[0, 2, 4]"]
    done = luigi(tmp_path, "SteerLm", *flags, *more, "--set", "max_steps=2", "--eval-share", "0.2", module="pipelines")
    assert done.returncode == 0, done.stderr
    learnt = only(tmp_path, "train.conditioned").read()
    for text, response in zip(learnt["text"].to_pylist(), learnt["response"].to_pylist(), strict=True):
        level = round(judges.letters([response])["verbosity"][0])
        label = f"toxicity:{level},verbosity:{level}"
        assert f"<|im_start|>assistant\n<extra_id_2>{label}\n{response}<|im_end|>" in text
    answers = only(tmp_path, "answers.attributes").read()
    rows = answers.select(["prompt", "requested", "response", "measured"]).to_pylist()
    assert sorted({row["requested"] for row in rows}) == [0, 2, 4]
    for row in rows:
        assert row["prompt"].endswith(f"assistant\n<extra_id_2>toxicity:0,verbosity:{row['requested']:.0f}\n")
        assert row["measured"] == [min(4.0, len(row["response"]) / 4)] * 2
    figures = {row["metric"]: row["value"] for row in only(tmp_path, "evaluation").read().to_pylist()}
    for level, value in enumerate((0, 2, 4)):
        at = [row["measured"][1] for row in rows if row["requested"] == value]
        assert figures[f"subject_0_level_{level}.mean"] == pytest.approx(mean(at))
    assert "0 2 4" in done.stdout
