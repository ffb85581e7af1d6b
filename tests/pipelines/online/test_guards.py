"""Bounds that stop an online run before it learns from a step that went astray, with the rows that made it so."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.label import GroupAdvantage, Weighted
from datakit.online import StepAgreement, StepLogprobs
from datakit.tokenize import Drawn
from pipelines.online import config
from pipelines.online.__main__ import execute
from pipelines.online.config import OnlineRun, settings_of
from pipelines.online.guards import Guards, farthest
from pipelines.online.rollouts import answers_of
from pipelines.recipes import Grpo, OnlineDpo, OnlineRejectionSampling, Ppo
from schemas import Column, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError, HealthError
from tests.pipelines import judges
from tests.pipelines.online import runs
from tests.pipelines.online.test_recipe import planned
from tests.trainers import online


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("guards")
    online.init(place)
    runs.prompts(place)
    sys.modules.setdefault("judges", judges)
    return place


BOUNDS: list[tuple[dict[str, float], dict[str, float], float, list[str]]] = [
    ({}, {"kl": 1e9, "entropy": 0.0, "reward": -1e9}, 0.0, []),
    ({"max_kl": 2.0}, {"kl": 2.0}, 0.0, []),
    ({"max_kl": 2.0}, {"kl": 2.1}, 0.0, ["kl"]),
    ({"max_kl": 2.0}, {}, 0.0, []),
    ({"min_entropy": 0.5}, {"entropy": 0.4}, 0.0, ["entropy"]),
    ({"min_entropy": 0.5}, {"entropy": 0.5}, 0.0, []),
    ({"max_reward_drop": 0.25}, {"reward": 0.7}, 0.9, []),
    ({"max_reward_drop": 0.25}, {"reward": 0.6}, 0.9, ["reward"]),
    ({"max_reward_drop": 0.25}, {"reward": -5.0}, -np.inf, []),
]


@pytest.mark.parametrize(("bounds", "figures", "highest", "broken"), BOUNDS)
def test_what_breaks_a_bound(
    bounds: dict[str, float], figures: dict[str, float], highest: float, broken: list[str]
) -> None:
    assert [name for name, _, _ in Guards(**bounds).faults(figures, highest)] == broken


def guarded(folder: Path, name: str, *more: Any, **bounds: float) -> OnlineRun:
    """Four steps of GRPO that know how far they are from the first policy."""
    rows = (Drawn(), *more, GroupAdvantage(), StepLogprobs(columns=("old_logprobs", "ref_logprobs")))
    settings = {"algorithm": "ppo", "settings": {"kl_coefficient": 0.1}, "max_steps": 4}
    return replace(runs.online_run(folder, name, rows=rows, **settings), guards=Guards(**bounds))


def test_a_run_that_goes_astray_stops_and_names_the_answers(folder: Path, tmp_path: Path) -> None:
    """Each bound lies between what two steps of an undisturbed run came to; the answers named are the worst there."""
    whole = guarded(folder, str(tmp_path / "whole"))
    execute(whole)
    curve = runs.outcome(whole)["curve"]
    places = sorted((whole.run.paths.folder / "rollouts").glob("step=*-????????"))
    rows, answers = (Dataset.open(f"{places[3]}{part}").read() for part in ("", ".answers"))
    counted = [np.array(row) == 1 for row in rows["loss_mask"].to_pylist()]
    pairs = zip(rows["drawn_logprobs"].to_pylist(), rows["ref_logprobs"].to_pylist(), counted, strict=True)
    kl = [float(np.sum((np.array(own) - np.array(ref))[mask])) for own, ref, mask in pairs]
    assert [curve[at]["ref_kl"] for at in (0, 3)] == pytest.approx([0, np.mean(kl)], abs=1e-5)
    logprobs = [np.mean(row) for row in answers["logprobs"].to_pylist()]
    worst = {"kl": rows["sample_id"][int(np.argmax(kl))], "entropy": answers["sample_id"][int(np.argmax(logprobs))]}
    for figure, bound in (("kl", "max_kl"), ("entropy", "min_entropy")):
        seen = [line["ref_kl" if figure == "kl" else figure] for line in curve]
        limit = max(seen) - 1e-9 if figure == "kl" else min(seen) + 1e-9
        at = seen.index(max(seen) if figure == "kl" else min(seen)) + 1
        with pytest.raises(HealthError, match=f"{figure} of the answers of step {at} is") as caught:
            execute(guarded(folder, str(tmp_path / figure), **{bound: limit}))
        assert caught.value.slug == f"guard-{figure}" and "the state after step" in caught.value.kept
        assert at == 4 and str(worst[figure]) in str(caught.value.found)


def test_the_worst_answers_of_all_rounds_are_named(tmp_path: Path) -> None:
    """The figures are of all rounds, and so are the answers that made them."""
    schema = Schema("drawn", 1, (Column("sample_id", pa.string(), "x"), Column("reward", pa.float64(), "x"),
                                 Column("logprobs", pa.list_(pa.float32()), "x")))  # fmt: skip

    def made(name: str, rows: list[dict[str, Any]]) -> Dataset:
        return Dataset.from_arrow(pa.Table.from_pylist(rows, schema.arrow), schema, str(tmp_path / name))

    def row(name: str, reward: float, logprob: float) -> dict[str, Any]:
        return {"sample_id": name, "reward": reward, "logprobs": [logprob]}

    rollouts = made("step", [row("learnt", 1.0, -1.0)])
    made("step.answers", [row("r1a", 0.5, -2.0), row("r1b", 0.25, -3.0)])
    made("step.round=2.answers", [row("r2a", -1.0, -4.0), row("r2b", 0.75, -0.5)])
    assert farthest("reward", rollouts, answers_of(rollouts)) == ["r2a", "r1b", "r1a", "r2b"]
    with pytest.raises(HealthError) as caught:
        Guards(min_entropy=9.0).check(1, {"entropy": 2.0}, 0.0, rollouts, answers_of(rollouts))
    assert caught.value.found == "2, farthest off r2b, r1a, r1b, r2a"


def test_the_highest_reward_is_known_after_a_resumption(folder: Path, tmp_path: Path) -> None:
    """Two runs that stop at the same step: one in one go, one whose steps before were made by a run without bounds."""
    free = guarded(folder, str(tmp_path / "free"))
    execute(free)
    rewards = [line["reward"] for line in runs.outcome(free)["curve"]]
    drops = [max(rewards[:n], default=rewards[0]) - rewards[n] for n in range(4)]
    at = int(np.argmax(drops))
    assert drops[at] > 0, "some step is worse than one before"
    bound = drops[at] - 1e-9
    first = next(n for n, drop in enumerate(drops) if drop > bound)
    for name in ("at once", "again"):
        given = guarded(folder, str(tmp_path / name), max_reward_drop=bound)
        for _ in range(1 if name == "at once" else 2):
            with pytest.raises(HealthError, match=f"reward of the answers of step {first + 1} is") as caught:
                execute(given)
            [place] = (given.run.paths.folder / "rollouts").glob(f"step={first + 1:06d}-????????.answers")
            rows = Dataset.open(str(place)).read()
            lowest = rows["sample_id"][int(np.argmin(rows["reward"].to_pylist()))].as_py()
            assert caught.value.slug == "guard-reward" and f"farthest off {lowest}, " in caught.value.found


def test_a_gradient_that_is_not_finite_stops_the_run_and_names_the_rows(folder: Path, tmp_path: Path) -> None:
    """Advantages that float32 holds, and a gradient of theirs that it does not."""
    given = runs.online_run(
        folder, str(tmp_path / "huge"), rows=(Drawn(), GroupAdvantage(scale="none")), algorithm="policy_gradient",
    )  # fmt: skip
    huge = settings_of((Weighted(weights=(("reward", 3e36),)),))
    given = replace(given, step=replace(given.step, answers=(*given.step.answers, *huge)))
    with pytest.raises(HealthError, match="the gradient of step 1 is") as caught:
        execute(given)
    [place] = (given.run.paths.folder / "rollouts").glob("step=000001-????????")
    learnt = Dataset.open(str(place)).read()["sample_id"].to_pylist()
    named = json.loads((given.run.paths.folder / "unhealthy.json").read_text())
    assert named["what"] == "gradient" and sorted(named["rows"]) == sorted(learnt)
    assert caught.value.slug == "not-finite" and any(name in caught.value.found for name in learnt)


def test_log_probabilities_of_another_network_are_noticed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainers.engine.inference.generator import Generator

    generate = Generator.generate

    def off(self: Any, rows: pa.Table, sampling: Any, seeds: Any) -> pa.Table:
        """The third answer of every chunk is said to have been likelier than it was, by half a nat a token."""
        answers = generate(self, rows, sampling, seeds)
        inflated = [[one + 0.5 * (n == 2) for one in row] for n, row in enumerate(answers["logprobs"].to_pylist())]
        at = answers.column_names.index("logprobs")
        return answers.set_column(at, "logprobs", pa.array(inflated, pa.list_(pa.float32())))

    execute(guarded(folder, str(tmp_path / "agreeing"), StepAgreement(most=1e-3)))
    monkeypatch.setattr(Generator, "generate", off)
    with pytest.raises(HealthError, match="2 of 12 answers were drawn with other log-probabilities") as caught:
        execute(guarded(folder, str(tmp_path / "stopped"), StepAgreement(most=0.1)))
    given = guarded(folder, str(tmp_path / "mended"), StepAgreement(most=0.1, beyond="recompute"))
    execute(given)
    [place] = (given.run.paths.folder / "rollouts").glob("step=000001-????????")
    rows = Dataset.open(str(place)).read().to_pylist()
    far = [row["sample_id"] for row in rows if row["logprob_error"] > 0.1]
    assert len(far) == 2 and all(one in str(caught.value.found) for one in far)
    for row in rows:
        counted = np.array(row["loss_mask"]) == 1
        own, drawn = (np.array(row[name])[counted] for name in ("old_logprobs", "drawn_logprobs"))
        assert drawn == pytest.approx(own, abs=1e-3)
        assert row["logprob_error"] == pytest.approx(0.5 if row["sample_id"] in far else 0.0, abs=1e-3)


def test_the_recipe_says_what_its_flags_ask(tmp_path: Path) -> None:
    plain = planned(Grpo, tmp_path).policy
    watched = planned(Grpo, tmp_path, guards={"min_entropy": 0.1, "max_reward_drop": 0.3}).policy
    assert watched.guards == Guards(min_entropy=0.1, max_reward_drop=0.3) and watched.task_key == plain.task_key
    for kind in (Grpo, OnlineDpo):
        names = [one.name for one in planned(kind, tmp_path, logprob_bound=0.01).policy.step.rows]
        assert names[:2] == ["tokenize.drawn", "online.agreement"]
    bounded = planned(Grpo, tmp_path, logprob_bound=0.01, logprob_beyond="recompute").policy
    assert bounded.step.rows[1].params == {"most": 0.01, "beyond": "recompute"} and bounded.task_key != plain.task_key
    with pytest.raises(ConfigError, match="max_kll"):
        planned(Grpo, tmp_path, guards={"max_kll": 1})
    with pytest.raises(ConfigError, match="min_entropy out of range"):
        planned(Grpo, tmp_path, guards={"min_entropy": -1.0})


WITH_KL = {"set": ["settings.kl_coefficient=0.01"]}


@pytest.mark.parametrize(("kind", "more"), [(Grpo, WITH_KL), (Ppo, {}), (Ppo, {"kl_coefficient": 0.0, **WITH_KL})])
def test_a_bound_of_kl_stands_where_rows_tell_it(kind: Any, more: dict[str, Any], tmp_path: Path) -> None:
    assert planned(kind, tmp_path, guards={"max_kl": 20}, **more).policy.guards == Guards(max_kl=20.0)


@pytest.mark.parametrize(
    ("kind", "more", "next_"),
    [
        (Grpo, {}, "--set settings.kl_coefficient=0.001"),
        (Ppo, {"kl_coefficient": 0.0}, "--set settings.kl_coefficient=0.001"),
        (OnlineDpo, {}, "leave max_kl out of --guards"),
        (OnlineRejectionSampling, {}, "leave max_kl out of --guards"),
    ],
)
def test_a_bound_of_kl_is_refused_where_no_row_tells_it(
    kind: Any, more: dict[str, Any], next_: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="max_kl among the guards would never stop") as caught:
        planned(kind, tmp_path, guards={"max_kl": 20}, **more)
    error = caught.value
    assert (error.slug, error.next, error.kept) == ("unmeasured-bound", next_, "nothing was started")
    assert error.expected and error.found and error.where


@pytest.mark.parametrize(("algorithm", "cure"), [("sft", "leave out guards.max_kl"), ("ppo", "of its run to 0.001")])
def test_a_run_from_a_file_is_refused_before_it_draws(algorithm: str, cure: str, folder: Path, tmp_path: Path) -> None:
    """As a recipe is: a bound of max_kl over rows that tell no divergence would be silent."""
    learnt = (Drawn(), GroupAdvantage(), StepLogprobs(columns=("old_logprobs",)))
    given = runs.online_run(folder, str(tmp_path / "silent"), rows=learnt, algorithm=algorithm)
    config.write(tmp_path / "config.json", replace(given, guards=Guards(max_kl=1.0)))
    with runs.watched(tmp_path), pytest.raises(ConfigError, match="max_kl among the guards would never stop") as caught:
        execute(config.read(str(tmp_path / "config.json")))
    assert cure in caught.value.next and not runs.draws(tmp_path)


def test_a_run_from_a_file_whose_rows_lack_a_column_is_refused_before_it_draws(folder: Path, tmp_path: Path) -> None:
    given = runs.online_run(folder, str(tmp_path / "lacking"), rows=(Drawn(),), algorithm="policy_gradient")
    with runs.watched(tmp_path), pytest.raises(DataError, match="no column advantages"):
        execute(given)
    assert not runs.draws(tmp_path)


def test_a_configuration_holds_them(folder: Path, tmp_path: Path) -> None:
    given = guarded(folder, "never", StepAgreement(most=0.1), max_kl=3.0)
    config.write(tmp_path / "config.json", given)
    assert config.read(str(tmp_path / "config.json")) == given
    assert given.step.asks_policy and settings_of((StepAgreement(most=0.1),))[0].op == StepAgreement(most=0.1)
