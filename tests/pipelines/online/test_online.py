"""`python -m pipelines.online`: rollouts that stay, a run that goes on bit for bit, no answer drawn twice."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.clients import TOKENIZED_PROMPTS
from datakit.run.resource import Resource
from pipelines.online import config
from pipelines.online.__main__ import execute
from pipelines.online.config import OnlineRun
from pipelines.online.figures import figures, of_answers
from pipelines.online.models import opened
from schemas.canonical import json_digest
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError, HealthError, Stopped
from tests.pipelines import judges
from tests.pipelines.online import runs
from tests.tail import late
from tests.trainers import online
from tests.trainers.online import Killed
from trainers import engine
from trainers.engine.training.trainer import Trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("online")
    online.init(place)
    runs.prompts(place)
    sys.modules.setdefault("judges", judges)
    return place


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What a run leaves that nobody disturbs, and what it drew."""
    given = runs.online_run(folder, "whole")
    with runs.watched(folder):
        execute(given)
    drawn = runs.draws(folder)
    assert len(drawn) == len(set(drawn)) == runs.STEPS * runs.PROMPTS_OF_STEP
    return runs.outcome(given), drawn


def rollouts(given: OnlineRun, step: int, suffix: str = "") -> Dataset:
    """Those of `step`, from 1."""
    [place] = (given.run.paths.folder / "rollouts").glob(f"step={step:06d}-????????{suffix}")
    return Dataset.open(str(place))


def test_every_step_leaves_what_it_asked_drew_and_learnt(whole: tuple[dict[str, Any], Any], folder: Path) -> None:
    """Held against a loop written here: each step's answers are those of the weights before it, and are learnt."""
    given = runs.online_run(folder, "whole")
    order = Dataset.open(str(folder / "prompts")).read()["prompt_id"].to_pylist()
    with engine.open(runs.online_run(folder, "by hand").run) as trainer:
        for step, line in enumerate(whole[0]["curve"], 1):
            asked, answers, rows = (rollouts(given, step, part) for part in (".prompts", ".answers", ""))
            first = (step - 1) * runs.PROMPTS_OF_STEP
            assert asked.read()["prompt_id"].to_pylist() == [order[(first + n) % 16] for n in range(6)]
            assert answers.facts["generator"] == rows.facts["generator"] == trainer.weights_checksum
            seed = int(json_digest({"seed": 0, "step": step - 1})[:15], 16)
            own = Resource(trainer.weights_checksum, trainer.generator, TOKENIZED_PROMPTS)
            draw = config.StepConfig.answering.fget(given.step).ops[0]  # type: ignore[attr-defined]
            again = apply(draw, asked, str(folder / f"again {step}"), resources={"generator": own}, seed=seed).read()
            kept = answers.read()
            assert again.select(["sample_id", "response_ids"]) == kept.select(["sample_id", "response_ids"])
            assert kept["reward"].to_pylist() == [float(len(text)) for text in kept["response"].to_pylist()]
            learnt = trainer.learn(rows.read())
            assert (learnt["loss"], line["reward"]) == (line["loss"], rows.stats["columns"]["reward"]["mean"])
        assert trainer.save().facts["weights_digest"] == whole[0]["facts"]["weights_digest"]
    assert [part.op["name"] for part in (answers.manifest, rows.manifest)] == ["chain.paid", "chain"]
    shutil.rmtree(folder / "by hand.run", ignore_errors=True)


def test_figures_of_a_step_are_those_of_its_answers(whole: tuple[dict[str, Any], Any], folder: Path) -> None:
    kept, answers = (rollouts(runs.online_run(folder, "whole"), 2, part) for part in ("", ".answers"))
    rows = answers.read()
    by_prompt = rows.group_by("prompt_id").aggregate([("reward", "min"), ("reward", "max")]).to_pylist()
    lengths, ended = rows["response_ids"].to_pylist(), rows["finish_reason"].to_pylist()
    expected = {
        "reward": sum(rows["reward"].to_pylist()) / rows.num_rows,
        "answer_tokens": sum(map(len, lengths)) / rows.num_rows,
        "cut": ended.count("length") / rows.num_rows,
        "entropy": -sum(sum(row) for row in rows["logprobs"].to_pylist()) / sum(map(len, lengths)),
        "equal_groups": sum(one["reward_min"] == one["reward_max"] for one in by_prompt) / len(by_prompt),
        "dropped": 0.0,
    }
    assert figures(kept, [answers]) == pytest.approx(expected)
    assert {name: whole[0]["curve"][1][name] for name in expected} == pytest.approx(expected)


def test_answers_that_nothing_is_learnt_from_count_in_the_figures() -> None:
    """Three prompts: one with equal rewards, one with others, one with a single answer, which is equal to none."""
    answers = {
        "prompt_id": ["a", "b", "a", "b", "c"],
        "response_ids": [[1], [1, 2], [1], [1, 2, 3], [1, 2, 3]],
        "finish_reason": ["stop", "length", "stop", "stop", "stop"],
        "reward": [1.0, 0.0, 1.0, 2.0, 6.0],
    }
    made = of_answers(pa.table(answers))
    assert made == pytest.approx({"reward": 2.0, "answer_tokens": 2.0, "cut": 0.2, "equal_groups": 1 / 3})
    assert "equal_groups" not in of_answers(pa.table(answers).slice(3)) and of_answers(pa.table(answers).slice(5)) == {}


def test_models_are_opened_once_and_see_what_is_there_by_then(folder: Path) -> None:
    given = runs.online_run(folder, "whole")
    resources = opened(given, given.step.answering, Dataset.open(str(folder / "prompts")))
    scorer: Any = resources["scorer"].open()
    assert scorer is resources["scorer"].open() and scorer.takes.names == ("response",)


CUT_OFF = [(1, "before"), late(2, "after"), late(7, "before"), (8, "after"), late(10, "before")]


@pytest.mark.parametrize(("call", "when"), CUT_OFF)
def test_a_run_that_is_cut_off_goes_on_and_draws_nothing_twice(
    call: int, when: str, whole: tuple[dict[str, Any], list[str]], folder: Path, tmp_path: Path
) -> None:
    """Of step 4 (calls 7 and 8 draw its two chunks) saves hold step 2: the rollouts of step 3 are used again."""

    given = runs.online_run(folder, str(tmp_path / "cut"))
    runs.cut_off(tmp_path, given, call, when)
    with runs.watched(tmp_path):
        execute(given)
    outcome, drawn = runs.outcome(given), runs.draws(tmp_path)
    assert outcome == whole[0]
    twice = len(drawn) - len(set(drawn))
    assert set(drawn) == set(whole[1]) and twice == (0 if when == "before" else [4, 2][(call - 1) % 2])


def test_rollouts_of_other_weights_are_made_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given, checksum = runs.online_run(folder, str(tmp_path / "other")), Trainer.weights_checksum.fget  # type: ignore[attr-defined]
    runs.cut_off(tmp_path, given, 8)
    runs.draws(tmp_path)
    monkeypatch.setattr(Trainer, "weights_checksum", property(lambda trainer: f"{checksum(trainer)[:-1]}x"))
    with runs.watched(tmp_path):
        execute(given)
    assert len(runs.draws(tmp_path)) == 3 * runs.PROMPTS_OF_STEP, "steps 3, 4 and 5 are drawn, none of them is kept"
    assert capsys.readouterr().err.count("was drawn from other weights") == 2, "rollouts of step 3, and its answers"
    assert rollouts(given, 2).facts["generator"][-1:] != "x" == rollouts(given, 3).facts["generator"][-1:]


def test_a_step_may_be_learnt_in_several_updates(folder: Path, tmp_path: Path) -> None:
    """The last of six updates of three steps; saves stand between the two of a step, too."""

    def die(number: int, moment: str) -> None:
        if number == 5:
            raise Killed

    made = []
    for name, killed in (("twice", False), ("twice cut", True)):
        given = runs.online_run(folder, str(tmp_path / name), updates=2, max_steps=6, save_every=3)
        with runs.watched(tmp_path, die if killed else lambda call, when: None):
            if killed:
                with pytest.raises(Killed):
                    execute(given)
            else:
                execute(given)
        if killed:
            with runs.watched(tmp_path):
                execute(given)
        drawn = runs.draws(tmp_path)
        assert len(drawn) == len(set(drawn)) == 3 * runs.PROMPTS_OF_STEP
        made.append(runs.outcome(given))
    assert made[0] == made[1] and [line["rows"] for line in made[0]["curve"]] == [6] * 6
    for name in ("reward", "cut", "answer_tokens"):  # of the whole step, in each of its updates
        assert [line[name] for line in made[0]["curve"][::2]] == [line[name] for line in made[0]["curve"][1::2]]


def test_rewards_that_are_no_numbers_may_be_a_share_of_a_chunk(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the advice of the error asks for works, and the log counts the answers that went."""
    (tmp_path / "odd_rewards.py").write_text(
        "def score(response):\n    return [float('nan') if n % 4 == 0 else 1.0 for n, _ in enumerate(response)]\n"
    )
    monkeypatch.chdir(tmp_path)
    given = runs.online_run(folder, str(tmp_path / "odd"), max_steps=1)
    given = replace(given, models={"scorer": "odd_rewards:score"})
    with pytest.raises(DataError, match=r"label\.reward rejected 2 of the first 8 rows"):
        execute(given)
    execute(replace(given, max_rejected=0.25))
    line = runs.outcome(given)["curve"][0]
    assert (line["dropped"], line["rows"]) == (3.0, 9.0)


def test_nothing_to_learn_is_said(folder: Path, tmp_path: Path) -> None:
    from datakit.filter import Where

    given = runs.online_run(folder, str(tmp_path / "none"), rows=(*runs.LEARNT, Where(predicate="reward > 1000")))
    with pytest.raises(HealthError, match="nothing is left to learn of the answers of step 1"):
        execute(given)
    assert rollouts(given, 1).read_rejected().num_rows == 12  # type: ignore[union-attr]


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"step": {"prompts": 0}}, "step.prompts 0 is below 1"),
    ({"step": {"answers": []}}, "begins with generate.complete"),
    ({"step": {"rows": []}}, "answers are no rows to learn"),
    ({"run": {"max_steps": None, "epochs": 1}}, "run.max_steps is missing"),
    ({"step": {"updatess": 2}}, "unknown key step.updatess"),
]


@pytest.mark.parametrize(("changed", "words"), FAULTS, ids=[words for _, words in FAULTS])
def test_a_configuration_that_cannot_be_is_refused(
    changed: dict[str, Any], words: str, folder: Path, tmp_path: Path
) -> None:
    config.write(tmp_path / "config.json", runs.online_run(folder, "never"))
    assert config.read(str(tmp_path / "config.json")) == runs.online_run(folder, "never")
    given = json.loads((tmp_path / "config.json").read_text())
    for part, settings in changed.items():
        given[part] |= settings
    (tmp_path / "config.json").write_text(json.dumps(given))
    with pytest.raises(ConfigError, match=words):
        config.read(str(tmp_path / "config.json"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("cut", [{}, {"data": 2}, {"tensor": 2}], ids=["one", "DP2", "TP2"])
def test_a_process_that_is_killed_or_stopped_goes_on(cut: dict[str, int], folder: Path, tmp_path: Path) -> None:
    ranks, sizes = max([1, *cut.values()]), {"tensor": 2} if "tensor" in cut else {}
    given = [runs.online_run(folder, str(tmp_path / name), parallel=sizes) for name in ("whole", "cut")]
    assert runs.play(tmp_path, given[0], ranks=ranks).returncode == 0
    expected, drawn = runs.outcome(given[0]), runs.draws(tmp_path)
    assert runs.play(tmp_path, given[1], "before", "8", "SIGKILL", ranks=ranks).returncode
    stopped = runs.play(tmp_path, given[1], "after", "1", "SIGTERM", ranks=ranks)
    assert ranks > 1 or stopped.returncode == Stopped.code, stopped.stderr
    last = runs.play(tmp_path, given[1], ranks=ranks)
    assert last.returncode == 0, last.stderr
    assert runs.outcome(given[1]) == expected and sorted(runs.draws(tmp_path)) == sorted(drawn)
