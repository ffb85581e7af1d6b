"""Online runs over conversations: rows that stay, turns of others that are not learnt, runs that go on bit for bit."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.clients import Sampling
from datakit.generate import Converse
from datakit.label import GroupAdvantage
from datakit.op import Op
from datakit.tokenize import Drawn
from pipelines.commands.online import Online
from pipelines.graph.node import rows_of
from pipelines.graph.plan import Plan
from pipelines.online.__main__ import execute
from pipelines.online.config import OnlineRun, settings_of
from pipelines.online.figures import of_answers, surprise_of
from pipelines.recipes import Grpo
from pipelines.stages.conversing import Conversing
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError
from tests.pipelines import games, judges
from tests.pipelines.online import runs
from tests.tail import late
from tests.trainers import online

TEMPLATE = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
ROWS: tuple[Op, ...] = (Drawn(mask="response_mask"), GroupAdvantage())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("conversing")
    online.init(place)
    runs.prompts(place)
    sys.modules.setdefault("games", games)
    sys.modules.setdefault("judges", judges)
    return place


def talking(folder: Path, name: str, environment: str = "games:longer", **changes: Any) -> OnlineRun:
    """`runs.online_run` over conversations of three answers, learnt by `policy_gradient`."""
    given = runs.online_run(folder, name, rows=ROWS, **{"algorithm": "policy_gradient", "max_steps": 3, **changes})
    sampling = Sampling(samples_per_prompt=2, max_new_tokens=4, stop=("w1", "w2", "w3"))
    draw = Converse(sampling=sampling, rows_per_chunk=4, max_turns=4, max_length=64, template=TEMPLATE)
    step = replace(given.step, answers=settings_of((draw,)))
    return replace(given, step=step, models={"environment": environment, "tokenizer": str(folder / "init")})


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[dict[str, Any], list[str]]:
    given = talking(folder, "whole")
    with runs.watched(folder):
        execute(given)
    drawn = runs.draws(folder)
    assert len(drawn) == len({*drawn}), "no answer is drawn twice, whatever its turn"
    return runs.outcome(given), drawn


def rows_of_step(given: OnlineRun, suffix: str = "") -> Dataset:
    [place] = (given.run.paths.folder / "rollouts").glob(f"step=000002-????????{suffix}")
    return Dataset.open(str(place))


def test_a_step_learns_what_was_drawn_in_all_turns(whole: tuple[dict[str, Any], Any], folder: Path) -> None:
    """Rows, figures and advantages of step 2, worked out here from its answers."""
    given = talking(folder, "whole")
    answers, learnt = rows_of_step(given, ".answers").read(), rows_of_step(given).read().to_pylist()
    rows = answers.to_pylist()
    assert {row["turns"] for row in rows} >= {3} and {row["conversation_end"] for row in rows} >= {"environment"}
    for row, kept in zip(rows, learnt, strict=True):
        contents = [turn["content"] for turn in row["messages"] if turn["role"] == "assistant"] + [row["response"]]
        assert row["reward"] == sum(map(len, contents)) and kept["loss_mask"][4:] == row["response_mask"]
        group = [one["reward"] for one in rows if one["prompt_id"] == row["prompt_id"]]
        counted = [one for one, is_one in zip(kept["advantages"], kept["loss_mask"], strict=True) if is_one]
        expected = (row["reward"] - np.mean(group)) / (np.std(group, ddof=1) + 1e-6)
        assert counted == pytest.approx([expected] * len(counted), abs=1e-5)
    drawn = [[one for one, is_one in zip(r["logprobs"], r["response_mask"], strict=True) if is_one] for r in rows]
    figures, made = whole[0]["curve"][1], of_answers(answers)
    assert figures["answer_tokens"] == np.mean([len(row) for row in drawn])
    assert made["entropy"] == pytest.approx(-np.mean([one for row in drawn for one in row]))
    assert figures["turns"] == np.mean([row["turns"] for row in rows])
    assert surprise_of(answers) == pytest.approx([-np.mean(row) for row in drawn])
    assert "turns" not in of_answers(answers.drop_columns(["turns"]))


def test_log_probabilities_are_those_of_the_whole_conversation(whole: Any, folder: Path) -> None:
    """Read once more by the network that drew them: what was drawn in later turns saw all that stood before it."""
    from trainers import engine

    [first] = (folder / "whole.run" / "rollouts").glob("step=000001-????????")
    rows = Dataset.open(str(first)).read()
    with engine.open(talking(folder, "read again").run) as trainer:
        texts = [np.asarray(ids, np.int64) for ids in rows["input_ids"].to_pylist()]
        again = trainer.token_model().logprobs(texts).to_pylist()
    for mask, drawn, own in zip(rows["loss_mask"].to_pylist(), rows["drawn_logprobs"].to_pylist(), again, strict=True):
        at = np.flatnonzero(mask)
        assert np.asarray(drawn)[at] == pytest.approx(np.asarray(own)[at], abs=1e-4)


@pytest.mark.parametrize(("call", "when"), [(8, "before"), late(3, "after"), late(12, "after")])
def test_a_run_that_is_cut_off_between_turns_goes_on(
    call: int, when: str, whole: tuple[dict[str, Any], list[str]], folder: Path, tmp_path: Path
) -> None:
    """Two chunks of three turns each are a step: what was drawn again is of the chunk that was in flight."""

    given = talking(folder, str(tmp_path / "cut"))
    runs.cut_off(tmp_path, given, call, when)
    drawn = runs.finished(tmp_path, given)
    assert runs.outcome(given) == whole[0] and {*drawn} == {*whole[1]}
    assert len(drawn) - len({*drawn}) <= 4 + 2 * 8, "one chunk: four prompts, and eight answers in two turns"


def test_held_out_conversations_are_drawn_once(folder: Path, tmp_path: Path) -> None:
    given = talking(folder, str(tmp_path / "held"), validate_every=1, max_steps=1, validation=str(folder / "prompts"))
    execute(given)
    [place] = (given.run.paths.folder / "rollouts").glob("validation=000001-*")
    rows = Dataset.open(str(place)).read()
    assert rows.num_rows == 16 and "response_mask" in rows.column_names


def test_an_environment_that_raises_is_blamed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no move against assistant"):
        execute(talking(folder, str(tmp_path / "raising"), environment="games:raising"))


def planned(folder: Path, **settings: Any) -> Online:
    made: Online = Grpo(**settings).results(Plan(str(folder / "data")))
    return made


def test_a_recipe_draws_conversations_in_its_steps_and_on_held_out_prompts(tmp_path: Path) -> None:
    made = planned(tmp_path, environment="games:longer", max_turns=3)
    draw, *others = made.policy.step.answers
    assert draw.name == "generate.converse" and not others and draw.params["max_turns"] == 3
    assert draw.params["reward"] == "reward" and draw.params["template"] is None
    assert {name: node.kind for name, node in made.policy.models.items()} == {
        "environment": "function", "tokenizer": "dataset",
    }  # fmt: skip
    assert {"response_mask", "turns", "reward"} <= {*rows_of(made.before.answers).names}
    drawn = made.policy.step.labelling.ops[0]
    assert isinstance(drawn, Drawn) and drawn.mask == "response_mask"
    conversing = made.task_setup.eval_setup.conversing
    assert isinstance(conversing, Conversing) and conversing.rewards
    verified = planned(tmp_path, environment="games:longer", reward_source="verifier").policy
    assert [op.name for op in verified.step.answers] == ["generate.converse", "label.verify"]
    assert verified.step.answers[0].params["reward"] == "environment_reward"
    keys = {planned(tmp_path, **change).policy.task_key for change in ({}, {"environment": "games:longer"})}
    assert len({*keys, made.policy.task_key}) == 3, "with eight turns, with three, with one answer"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"environment": "games:nothing"}, "the module defines no such function"),
    ({"environment": "judges:letters"}, "judges:letters is no environment: it takes response"),
    ({"reward_source": "environment"}, "no --environment rewards answers"),
]


@pytest.mark.parametrize(("settings", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_is_no_environment_is_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        planned(tmp_path, **settings)
