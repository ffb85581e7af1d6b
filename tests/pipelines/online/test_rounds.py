"""Prompts that teach nothing are set aside, and others asked in their place; held-out prompts tell the best save."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datakit.filter import Window, ZeroVariance
from datakit.label import GroupAdvantage
from datakit.tokenize import Drawn
from pipelines.makers.training import _last, _progress
from pipelines.online.__main__ import execute
from pipelines.online.config import OnlineRun
from pipelines.online.rounds import window_of
from pipelines.recipes import Grpo, Ppo
from schemas.canonical import json_digest
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.store.commit import read_manifest
from tests.pipelines import judges
from tests.pipelines.online import runs
from tests.pipelines.online.test_recipe import nothing_configured, own, planned  # noqa: F401 - a fixture
from tests.trainers import online


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("rounds")
    online.init(place)
    runs.prompts(place)
    sys.modules.setdefault("judges", judges)
    return place


def grpo_run(folder: Path, name: str, **changes: Any) -> OnlineRun:
    """Three steps; about half of all prompts have answers of one reward alone."""
    rows = (ZeroVariance(), Drawn(), GroupAdvantage())
    given = runs.online_run(folder, name, rows=rows, **{"algorithm": "policy_gradient", "max_steps": 3, **changes})
    return replace(given, step=replace(given.step, max_rounds=3), models={"scorer": "judges:even"})


def test_where_the_prompts_of_a_round_stand() -> None:
    """Of 16 prompts 6 a step: step 2 begins at 12; further rounds 8 behind that, as many as should fill it."""
    assert window_of(2, 6, 16, [], 0) == Window(offset=12, limit=6, wrap=True)
    assert window_of(2, 6, 16, [6], 6) is None, "it is full"
    assert window_of(2, 6, 16, [6], 3) == Window(offset=20, limit=6, wrap=True), "half were left: 3 want 6"
    assert window_of(2, 6, 16, [6], 5) == Window(offset=20, limit=2, wrap=True), "1 / (5 / 6)"
    assert window_of(2, 6, 16, [6], 0) == Window(offset=20, limit=6, wrap=True), "no more than the first"
    assert window_of(2, 6, 16, [6, 6], 4) == Window(offset=26, limit=2, wrap=True), "16 are there: 8 + 6 + 2"
    assert window_of(2, 6, 16, [6, 6, 2], 4) is None, "no others are left"
    assert window_of(0, 6, 7, [6], 3) == Window(offset=6, limit=1, wrap=True), "never one of its own"


def test_prompts_that_teach_nothing_are_replaced_and_stay_readable(folder: Path, tmp_path: Path) -> None:
    given = grpo_run(folder, str(tmp_path / "whole"))
    with runs.watched(tmp_path):
        execute(given)
    drawn, curve, several = runs.draws(tmp_path), runs.outcome(given)["curve"], 0
    for place in sorted((given.run.paths.folder / "rollouts").glob("step=*-????????")):
        rounds = [Dataset.open(f"{place}{part}.answers") for part in ("", ".round=2", ".round=3") if there(place, part)]
        rows, [line] = Dataset.open(str(place)), [one for one in curve if f"{one['step']:06d}" in place.name]
        answers = [row for one in rounds for row in one.read().to_pylist()]
        rewards: dict[str, list[float]] = {}
        for row in answers:
            rewards.setdefault(row["prompt_id"], []).append(row["reward"])
        assert {len(both) for both in rewards.values()} == {2}, "no prompt is asked twice in a step"
        differ = [name for name, (one, other) in rewards.items() if one != other]
        assert list(dict.fromkeys(rows.read()["prompt_id"].to_pylist())) == differ
        gone = rows.read_rejected()
        dropped = [] if gone is None else gone.to_pylist()
        left_out = {(name, "equal-rewards") for name in rewards if name not in differ}
        assert {(row["prompt_id"], row["reason"]) for row in dropped} == left_out
        assert len(differ) >= 6 or len(rounds) == 3 or len(rewards) == 16, "until the step is full"
        assert [parent.content_digest for parent in rows.manifest.parents] == [one.content_digest for one in rounds]
        assert (line.get("rounds", 1.0), line["rows"], line["dropped"]) == (len(rounds), rows.num_rows, len(dropped))
        assert line["reward"] == pytest.approx(sum(row["reward"] for row in answers) / len(answers)), "of all drawn"
        assert line["equal_groups"] == pytest.approx(1 - len(differ) / len(rewards))
        several += len(rounds) > 1
    assert several, "some step asked again"

    cut = grpo_run(folder, str(tmp_path / "cut"))
    runs.cut_off(tmp_path, cut, len(drawn) // 4)
    again = runs.finished(tmp_path, cut)
    assert runs.outcome(cut) == runs.outcome(given) and sorted(again) == sorted(drawn) and len({*again}) == len(again)


def there(place: Path, part: str) -> bool:
    return Path(f"{place}{part}.answers").exists()


def test_held_out_prompts_are_answered_every_few_steps(folder: Path, tmp_path: Path) -> None:
    """Each once, with the same draws; figures stand in the log, and the save that is best by them stays."""
    changes = {"validation": str(folder / "prompts"), "validate_every": 2, "save_every": 2, "keep_last": 1}
    best = {"keep_best": 1, "best_by": "-val_reward", "max_steps": 6}

    made = []
    for name, killed in (("whole", False), ("cut", True)):
        given = runs.online_run(folder, str(tmp_path / name), **changes, **best)
        if killed:
            runs.cut_off(tmp_path, given, 15)
        drawn = runs.finished(tmp_path, given)
        assert killed or len(drawn) == 6 * 6 + 3 * 16
        made.append(runs.outcome(given))
    assert made[0] == made[1]
    checks = {line["step"]: line for line in made[0]["curve"] if "val_reward" in line}
    assert [*checks] == [2, 4, 6] and not any("reward" in line for line in checks.values())
    for step, line in checks.items():
        [place] = (given.run.paths.folder / "rollouts").glob(f"validation={step:06d}-????????")
        answers = Dataset.open(str(place))
        rewards = answers.read()["reward"].to_pylist()
        assert len(rewards) == 16 and line["val_reward"] == pytest.approx(sum(rewards) / 16)
        assert "val_equal_groups" not in line and {*line} >= {"val_answer_tokens", "val_cut", "val_dropped"}
    manifest = read_manifest(given.run.paths.out)
    assert manifest is not None
    highest = max(checks, key=lambda step: (checks[step]["val_reward"], -step))
    stats = manifest.facts["stats"]
    assert (stats["best_step"], stats["best_val_reward"]) == (highest, checks[highest]["val_reward"])
    saves = {int(place.name.partition("-")[2]) for place in (given.run.paths.folder / "saves").glob("step-*")}
    assert highest == 6 or highest in saves
    figures = _last(given.run.paths.folder / "metrics.jsonl")
    assert (figures["step"], figures["val_reward"]) == (6, checks[6]["val_reward"])
    assert "held-out reward 0.500" in _progress({"step": 3, "loss": 1.0, "reward": 0.1, "val_reward": 0.5}, 6, 1.0)


def test_the_recipe_says_what_its_flags_ask(tmp_path: Path) -> None:
    plain, several = (planned(Grpo, tmp_path, max_rounds=most).policy for most in (1, 4))
    assert several.step.max_rounds == 4 and several.step.rows[0].name == "filter.zero_variance"
    assert plain.step.rows == several.step.rows[1:] and plain.task_key != several.task_key and plain.validation is None
    with pytest.raises(ConfigError, match=r"filter\.zero_variance holds an answer against the others"):
        planned(Ppo, tmp_path, max_rounds=2, samples_per_prompt=1)
    given = planned(Grpo, tmp_path, set=["validate_every=10", "keep_best=1", "save_every=10"])
    assert given.policy.validation is not None and given.policy.training.execution.best_by == "-val_reward"
    assert given.policy.task_key == plain.task_key, "looking changes nothing"
    asked = planned(Grpo, tmp_path, set=["validate_every=10", "best_by=-val_correct"]).policy
    assert asked.training.execution.best_by == "-val_correct"
    assert json_digest(plain.step.validating.ops[0].params()["sampling"]["samples_per_prompt"]) == json_digest(1)


def test_the_last_validation_stands_beside_the_step_in_the_progress_line(tmp_path: Path) -> None:
    lines: list[dict[str, float]] = [
        {"step": 1, "loss": 2.0},
        {"step": 1, "val_reward": 0.25, "val_cut": 0.0},
        {"step": 2, "loss": 1.0, "reward": 0.5},
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert _last(file) == {"step": 2, "loss": 1.0, "reward": 0.5, "val_reward": 0.25}
    file.write_text(json.dumps(lines[1]) + "\n")
    assert _last(file) == {}, "no step yet"
