"""One step off: answers of the policy of the step before, ratios that say so, and a run that goes on bit for bit."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.filter import Where
from datakit.label import GroupAdvantage, ImportanceWeights
from datakit.online import StepAgreement, StepLag, StepLogprobs, StepVersion
from datakit.op import Op
from datakit.tokenize import Drawn
from pipelines.commands.online import OnlineRecipe
from pipelines.graph.plan import Plan
from pipelines.online.__main__ import execute
from pipelines.online.config import OnlineRun, OpSettings, identity_fields, settings_of
from pipelines.recipes import Grpo, OnlineDpo, OnlineRejectionSampling, Ppo, Reinforce, ReinforcePp
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from tests.pipelines import judges
from tests.pipelines.online import runs
from tests.tail import late
from tests.trainers import online
from trainers import engine

ROWS: tuple[Op, ...] = (
    StepLag(),
    Where(predicate="lag <= 1"),
    Drawn(),
    GroupAdvantage(),
    StepLogprobs(columns=("old_logprobs",)),
    ImportanceWeights(),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("lagged")
    online.init(place)
    runs.prompts(place)
    sys.modules.setdefault("judges", judges)
    return place


def lagged(folder: Path, name: str, updates: int = 1, **changes: Any) -> OnlineRun:
    """GRPO of four steps, one step off."""
    base = {"algorithm": "ppo" if updates > 1 else "policy_gradient", "max_steps": 4 * updates, **changes}
    given = runs.online_run(folder, name, rows=ROWS, updates=updates, **base)
    answers = (*given.step.answers, OpSettings(name="online.version"))
    return replace(given, step=replace(given.step, answers=answers, lag=1))


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[dict[str, Any], list[str]]:
    given = lagged(folder, "whole")
    with runs.watched(folder):
        execute(given)
    drawn = runs.draws(folder)
    assert len(drawn) == len({*drawn}) == 4 * runs.PROMPTS_OF_STEP
    return runs.outcome(given), drawn


def test_ratios_are_those_of_the_policy_that_learns_to_the_one_that_drew(whole: Any, folder: Path) -> None:
    """Worked out here: both policies are asked for log-probabilities as a loop of one's own comes by them."""
    places = sorted((folder / "whole.run" / "rollouts").glob("step=00000?-????????"))
    steps = [Dataset.open(str(place)) for place in places]
    answers = [Dataset.open(f"{place}.answers") for place in places]
    known: list[list[list[float]]] = []
    checksums: list[str] = []
    with engine.open(lagged(folder, "by hand").run) as trainer:
        for step, (rows, drawn) in enumerate(zip(steps, answers, strict=True)):
            before = max(step - 1, 0)
            checksums.append(trainer.weights_checksum)
            assert (drawn.facts["generator"], rows.facts["generator"]) == (checksums[before], checksums[step])
            table = rows.read()
            assert {*table["weight_version"].to_pylist()} == {before} and {*table["lag"].to_pylist()} == {step - before}
            ahead = steps[min(step + 1, 3)].read()["input_ids"].to_pylist()
            own, later = ([np.asarray(ids) for ids in one] for one in (table["input_ids"].to_pylist(), ahead))
            model = trainer.token_model()
            now, of_next = model.logprobs(own).to_pylist(), model.logprobs(later).to_pylist()
            behind = now if step == 0 else known[-1]
            known.append(of_next)
            _check_rows(table, now, behind)
            learnt = trainer.learn(table)
            assert learnt["loss"] == whole[0]["curve"][step]["loss"]
    assert len({*checksums}) == 4


def _check_rows(table: Any, now: list[list[float]], behind: list[list[float]]) -> None:
    """Weights are clip(pi / mu, 0, 2), advantages those of the group times the weights."""
    rewards, names = np.array(table["reward"].to_pylist()), table["prompt_id"].to_pylist()
    for at, row in enumerate(table.to_pylist()):
        mask = np.asarray(row["loss_mask"]) == 1
        log = (np.asarray(now[at]) - np.asarray(behind[at]))[mask]
        assert np.asarray(row["drawn_logprobs"])[mask] == pytest.approx(np.asarray(behind[at])[mask], abs=1e-4)
        assert np.asarray(row["importance_weights"])[mask] == pytest.approx(np.clip(np.exp(log), 0, 2), abs=1e-4)
        assert row["importance_ratio"] == pytest.approx(np.exp(log.mean()), abs=1e-4)
        group = rewards[[one == row["prompt_id"] for one in names]]
        advantage = (row["reward"] - group.mean()) / (group.std(ddof=1) + 1e-6)
        expected = advantage * np.clip(np.exp(log), 0, 2)
        assert np.asarray(row["advantages"])[mask] == pytest.approx(expected, abs=1e-3)
        if row["lag"] == 0:
            assert row["importance_ratio"] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("call", "when"), [(4, "after"), late(5, "before"), late(8, "before"), late(7, "after")])
def test_a_run_that_is_cut_off_goes_on_with_the_answers_of_before(
    call: int, when: str, whole: tuple[dict[str, Any], list[str]], folder: Path, tmp_path: Path
) -> None:
    """Calls 3 and 4 draw for step 2 before step 1 is learnt, 5 and 6 for step 3: a save of step 2 stands behind these,
    and goes on with answers whose policy is gone.
    """

    given = lagged(folder, str(tmp_path / "cut"))
    runs.cut_off(tmp_path, given, call, when)
    drawn = runs.finished(tmp_path, given)
    assert runs.outcome(given) == whole[0] and {*drawn} == {*whole[1]}
    assert len(drawn) - len({*drawn}) <= (4 if when == "after" else 0)


@pytest.mark.parametrize("call", [7, late(8)])
def test_several_updates_of_a_step_are_one_step_off(call: int, folder: Path, tmp_path: Path) -> None:
    made = []
    for name in ("whole", "cut"):
        given = lagged(folder, str(tmp_path / name), updates=2, save_every=3)
        if name == "cut":
            runs.cut_off(tmp_path, given, call)
        execute(given)
        made.append(runs.outcome(given))
    assert made[0] == made[1]
    assert [line["lag"] for line in made[0]["curve"]] == [0, 0, 1, 1, 1, 1, 1, 1]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("when", "call"), [("before", 4), ("after", 5), ("before", 6)])
def test_a_generator_that_is_killed_one_step_off_goes_on(when: str, call: int, folder: Path, tmp_path: Path) -> None:
    """SIGKILL of the process while it draws ahead, before any save and behind one: the same curve, weights and
    rollouts, and of what was kept nothing is drawn again.
    """
    whole, cut = (lagged(folder, str(tmp_path / name)) for name in ("whole", "cut"))
    assert runs.play(tmp_path, whole).returncode == 0
    drawn = runs.draws(tmp_path)
    killed = runs.play(tmp_path, cut, when, str(call), "SIGKILL")
    assert killed.returncode == -9, killed.stderr
    before = runs.draws(tmp_path)
    last = runs.play(tmp_path, cut)
    assert last.returncode == 0, last.stderr
    after = runs.draws(tmp_path)
    in_flight = (4 if call % 2 else 2) if when == "after" else 0
    assert not {*before[: len(before) - in_flight]} & {*after} and {*before, *after} == {*drawn}
    assert runs.outcome(cut) == runs.outcome(whole)


def test_answers_that_are_gone_are_drawn_by_the_weights_as_they_stand(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = lagged(folder, str(tmp_path / "gone"))
    runs.cut_off(tmp_path, given, 7)
    kept = folder / tmp_path / "gone.run" / "rollouts"
    for place in kept.glob("step=000003-*"):
        shutil.rmtree(place)
    execute(given)
    seen = capsys.readouterr().err
    assert "resumed at step 2" in seen, seen
    assert "is gone: the answers of this step are drawn by the weights as they stand" in seen
    [place] = kept.glob("step=000003-????????")
    assert {*Dataset.open(str(place)).read()["lag"].to_pylist()} == {0}


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"lag": 2}, "step.lag 2 is neither 0 nor 1"),
    ({"rows": settings_of(ROWS[2:])}, "step.rows has no online.lag"),
    ({"rows": settings_of((*ROWS, StepAgreement(most=1.0)))}, "and step.lag is 1"),
]


@pytest.mark.parametrize(("changed", "words"), FAULTS, ids=[words for _, words in FAULTS])
def test_a_lag_that_cannot_be_is_refused(changed: dict[str, Any], words: str, folder: Path) -> None:
    given = lagged(folder, "never")
    with pytest.raises(ConfigError, match=words):
        replace(given, step=replace(given.step, **changed))


@pytest.mark.parametrize("kind", [Grpo, Reinforce, ReinforcePp, Ppo, OnlineDpo, OnlineRejectionSampling])
def test_every_online_recipe_may_be_one_step_off(kind: type[OnlineRecipe], tmp_path: Path) -> None:
    """Advantages are weighed; without a lag, a run and its key are what they were."""
    plain, off = (kind(**given).results(Plan(str(tmp_path))).policy for given in ({}, {"lag": 1}))  # type: ignore[attr-defined]
    ops = [op.name for op in off.step.labelling.ops]
    assert off.step.answers[-1].name == StepVersion.name and "online.lag" in ops
    weighed = kind in (Grpo, Reinforce, ReinforcePp, Ppo)
    assert ("label.importance_weights" in ops) == weighed and ops.count("online.logprobs") <= 1
    if weighed:
        assert ops.index("online.logprobs") < ops.index("label.importance_weights")
        columns = next(op.columns for op in off.step.labelling.ops if isinstance(op, StepLogprobs))
        assert "old_logprobs" in columns
    assert "lag" not in identity_fields(plain.step) and plain.task_key != off.task_key


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"importance": {"kind": "mask"}}, "--importance: answers are weighed with --lag 1 alone"),
        ({"max_turns": 3}, "--max-turns: without --environment"),
    ],
)
def test_a_flag_of_what_is_not_asked_for_is_refused(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        Grpo(**given).results(Plan(str(tmp_path)))


def test_a_loss_without_advantages_is_not_weighed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--importance: dpo has no advantages to weigh"):
        OnlineDpo(lag=1, importance={"kind": "mask"}).results(Plan(str(tmp_path)))  # type: ignore[call-arg]


def test_rounds_of_prompts_are_counted_behind_the_filters(tmp_path: Path) -> None:
    step = Grpo(lag=1, max_rounds=2, importance={"kind": "mask"}).results(Plan(str(tmp_path))).policy.step  # type: ignore[call-arg]
    assert [op.name for op in step.filters] == ["filter.zero_variance"]
    weights = step.labelling.ops[-1]
    assert isinstance(weights, ImportanceWeights) and weights.kind == "mask"
