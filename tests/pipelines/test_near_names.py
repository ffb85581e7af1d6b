"""What is not there: its near name, and the command that was given with it; a next command that is one."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from datakit.formats.sources import digests_of
from datakit.io import Reversal
from datakit.label import Reward
from datakit.registry import kind_of
from pipelines.cli import invocation
from pipelines.graph.backend import model_at
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.runtime.command import next_command
from quiver import console
from schemas.errors import ConfigError, QuiverError
from schemas.settings import parse
from schemas.store.opening import only_match
from trainers.config import Optim


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").touch()
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my_reward.py").write_text("def score(response):\n    return [0.0]\n")


def scored(model: str) -> Node:
    """Rows that `model` scores."""
    plan = Plan("data")
    rows = plan.table("rows", Reversal(rows=2, output="demonstrations"))
    return plan.table("label", Reward(), rows, scorer=model_at(plan, model))


def after(error: QuiverError, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What the command of these words says to do next."""
    monkeypatch.setattr(invocation, "_given", list(words))
    return next_command(error)


@pytest.mark.parametrize("place", ["row.jsonl", "./row.jsonl"])
def test_a_file_with_a_near_name_is_put_into_the_command(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as caught:
        digests_of((place,))
    right = place.replace("row.", "rows.")
    assert after(caught.value, monkeypatch, "Import", f"--files={place}").endswith(f" Import --files={right}")
    assert after(caught.value, monkeypatch, "Import", "--files", place).endswith(f" Import --files {right}")
    assert after(caught.value, monkeypatch, "Import", "--files", f"{place},x").startswith("ls "), "one of several"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("./my-modl", "./my-model"), ("my_rewrd:score", "my_reward:score"), ("my_reward:scor", "my_reward:score")],
)
def test_a_model_with_a_near_name_is_put_into_the_command(
    wrong: str, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="did you mean") as caught:
        scored(wrong)
    assert after(caught.value, monkeypatch, "Label", "--model", wrong).endswith(f" Label --model {right}")


def test_a_near_name_with_a_blank_is_put_into_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new answers.jsonl").touch()
    with pytest.raises(ConfigError) as caught:
        digests_of(("new answer.jsonl",))
    next_ = after(caught.value, monkeypatch, "Import", "--files", "new answer.jsonl")
    assert next_.endswith(" Import --files 'new answers.jsonl'")


@pytest.mark.parametrize("words", [("--files", "part-*.jsonl"), ("--files=part-*.jsonl",)])
def test_what_a_pattern_matches_is_put_into_the_command_whole(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [f"part-{number:03d}-of-060.jsonl" for number in range(60)]
    for place in places:
        (tmp_path / place).touch()
    with pytest.raises(ConfigError) as caught:
        only_match("part-*.jsonl")
    assert shlex.split(after(caught.value, monkeypatch, "Import", *words))[-1].endswith(",".join(places))
    last = after(caught.value, monkeypatch, "Sft", *words)
    assert last.endswith(f"Sft {' '.join(words).replace('part-*.jsonl', places[-1])}")
    unlike = after(caught.value, monkeypatch, "Sft", "--files", "part-*.jsonl,rows.jsonl")
    assert unlike == f"name one of them: {places[-1]}"


def test_a_command_with_two_faults_is_not_half_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Optim, {"lrr": 1e-4, "schedule": "cosin"})
    assert caught.value.wrong == ("lrr",) and not caught.value.nearest
    given = ("Train", "--set", "lrr=1e-4", "--set", "schedule=cosin")
    assert after(caught.value, monkeypatch, *given).endswith(" Train --help")
    with pytest.raises(ConfigError) as alone:
        parse(Optim, {"lrr": 1e-4})
    assert after(alone.value, monkeypatch, *given[:3]).endswith(" Train --set lr=1e-4")


@pytest.mark.parametrize("family", ["", "label."])
def test_an_operation_with_a_near_name_is_put_into_the_command(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as caught:
        kind_of("label.rewrd")
    given = ("Label", "--data", "x", "--op", f"{family}rewrd", "--name", "y")
    assert after(caught.value, monkeypatch, *given).endswith(f" Label --data x --op {family}reward --name y")
    other = after(caught.value, monkeypatch, "Sft", "--set", "settings.op=x")
    assert other == "quiver ops label.reward"


def test_nothing_near_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as caught:
        model_at(Plan("data"), "./zzzzzz")
    assert "did you mean" not in caught.value.what


def test_a_wrong_use_of_a_list_is_answered_with_the_place_that_was_given() -> None:
    for words, command in (
        ("show data/x --frobnicate", "quiver show data/x"),
        ("export data/x --to trl", "quiver export data/x --to trl --out rows-2.jsonl"),
    ):
        with pytest.raises(ConfigError) as caught:
            console.run(words.split())
        assert caught.value.next in (command, f"quiver {words.split()[0]} --help")
        assert "URL" not in caught.value.next
