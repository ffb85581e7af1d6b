"""DecisionTransformer: what is blended, what the model reads, what the reward model reads, what the table says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from commands import luigi

from datakit.io import Jsonl
from datakit.op import Context
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.recipes import DecisionTransformer
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from tests import pages
from tests.pipelines import judges

ROWS = [{"prompt": f"Say {n}", "response": "a" * (n % 9 + 1)} for n in range(60)]
PAIRS = [{"prompt": f"Say {n}", "chosen": "bbbb", "rejected": "b"} for n in range(60, 80)]
SETTINGS = {"model": "model", "data": "rows.jsonl", "reward": "judges:letters", "max-new-tokens": "6"}
LEVELS = [-1.0, 0.0, 1.25]


def test_a_template_without_a_place_for_the_reward_is_refused(place: Path) -> None:
    recipe = DecisionTransformer(
        model="model", data="rows.jsonl", reward="judges:letters", max_new_tokens=6, reward_template="{input}"
    )
    with pytest.raises(ConfigError, match=r"\{reward\} is missing"):
        recipe.results(Plan(str(place / "out")))


@pytest.mark.parametrize("levels", [(-1.5, -0.75, 0.75), (0.04,), (float("nan"),)])
def test_a_level_that_the_question_does_not_say_as_it_is_is_refused(place: Path, levels: tuple[float, ...]) -> None:
    given: dict[str, Any] = {"model": "model", "data": "rows.jsonl", "reward": "judges:letters", "max_new_tokens": 6}
    with pytest.raises(ConfigError, match="cannot be asked for") as fault:
        DecisionTransformer(**given, levels=levels).results(Plan(str(place / "out")))
    assert fault.value.slug == "levels" and fault.value.next.startswith("--levels '[")
    finite = [level for level in levels if not math.isnan(level)] or [0.25]
    assert DecisionTransformer(**given, levels=finite, decimals=2).requested_levels == finite


def test_the_levels_of_the_table_are_those_of_the_questions() -> None:
    recipe = DecisionTransformer()
    assert [f"{level:.1f}" for level in recipe.requested_levels] == ["-1.5", "-0.8", "0.0", "0.8", "1.5"]
    assert [float(f"{level:.1f}") for level in recipe.requested_levels] == recipe.requested_levels


def test_names_of_keys_are_those_of_one_kind_of_files(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What rows call `answer` no pair has to have; pairs have names of their own."""
    monkeypatch.syspath_prepend(str(Path(judges.__file__).parent))
    (place / "rows.jsonl").write_text("".join(json.dumps({"prompt": f"{n}", "answer": "a"}) + "\n" for n in range(9)))
    (place / "pairs.jsonl").write_text(json.dumps({"question": "q", "chosen": "a", "rejected": "b"}) + "\n")
    recipe = DecisionTransformer(
        model="model",
        data="rows.jsonl",
        reward="judges:letters",
        max_new_tokens=6,
        columns={"response": "answer"},
        pairs="pairs.jsonl",
        pairs_columns={"prompt": "question"},
    )
    nodes = {one.task_key: one for end in recipe.results(Plan(str(place / "out"))).targets for one in end.ancestors()}
    reads = {one.op.format: one.op for one in nodes.values() if isinstance(one, Table) and isinstance(one.op, Jsonl)}
    assert reads["completions"].columns == (("response", "answer"),)
    assert reads["preferences"].columns == (("prompt", "question"),)
    [pair] = [result.rows.to_pylist() for result in reads["preferences"].read(Context())]
    assert [turn["content"] for turn in pair[0]["messages"]] == ["q"]


def only(folder: Path, name: str) -> Dataset:
    [made] = (folder / "quiver-data/decision-transformer/rows").glob(f"{name}-????????")
    return Dataset.open(str(made))


@pytest.mark.slow
def test_from_files_to_the_table(tmp_path: Path) -> None:
    pages.model(tmp_path / "model")
    for name, rows in (("rows.jsonl", ROWS), ("pairs.jsonl", PAIRS)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [text for name, value in SETTINGS.items() for text in (f"--{name}", value)]
    more = ["--pairs", "pairs.jsonl", "--set", "max_steps=2", "--eval-share", "0.2", "--levels", json.dumps(LEVELS)]
    done = luigi(tmp_path, "DecisionTransformer", *flags, *more, "--decimals", "2", module="pipelines")
    assert done.returncode == 0, done.stderr

    scores = only(tmp_path, "scores").read()
    shares = [scores["source"].to_pylist().count(name) for name in ("generated", "data", "preferences")]
    assert max(shares) - min(shares) <= 2 and min(shares) > 30
    rewards = scores["reward"].to_pylist()
    assert rewards == judges.letters(scores["response"].to_pylist())["reward"]
    center, scale = mean(rewards), stdev(rewards)
    assert scores["score"].to_pylist() == pytest.approx([(value - center) / scale for value in rewards])

    texts = only(tmp_path, "train.texts").read()
    for row in texts.select(["text", "response", "score"]).to_pylist():
        written = f"{round(row['score'], 2) + 0.0:.2f}"
        assert f" <rm_score>: {written} <|im_end|>\n<|im_start|>assistant\n{row['response']}<|im_end|>" in row["text"]

    answers = only(tmp_path, "answers.rewards").read()
    asked = answers.select(["prompt", "messages", "requested"]).to_pylist()
    assert sorted({row["requested"] for row in asked}) == LEVELS
    for row in asked:
        [turn] = row["messages"]
        assert f"{turn['content']} <rm_score>: {row['requested']:.2f} <|im_end|>" in row["prompt"]
        assert "rm_score" not in turn["content"]
    figures = {row["metric"]: row["value"] for row in only(tmp_path, "evaluation").read().to_pylist()}
    for level, value in enumerate(LEVELS):
        at = [
            r
            for r, q in zip(answers["reward"].to_pylist(), answers["requested"].to_pylist(), strict=True)
            if q == value
        ]
        assert figures[f"subject_0_level_{level}.mean"] == pytest.approx(mean(at))
    assert "-1 0 1.25" in done.stdout
