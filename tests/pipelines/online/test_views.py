"""What an online run drew, in the views of its workspace: by step, and what docs/questions.md asks of it."""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datakit.catalog.rollouts import of_last_runs, rollouts_of
from datakit.catalog.workspace import read_workspace
from datakit.filter import ZeroVariance
from datakit.label import GroupAdvantage
from datakit.sql import connect
from datakit.tokenize import Drawn
from pipelines.online.__main__ import execute
from schemas.dataset import Dataset
from tests import pages
from tests.pipelines import judges
from tests.pipelines.online import runs
from tests.trainers import online

POLICY = "grpo/toy/policy-0123abcd"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a run of five steps over 16 prompts, 6 a step, in two rounds."""
    place = tmp_path_factory.mktemp("views")
    online.init(place)
    runs.prompts(place)
    sys.modules.setdefault("judges", judges)
    (place / "grpo" / "toy").mkdir(parents=True)
    rows = (ZeroVariance(), Drawn(), GroupAdvantage())
    checks = {"validation": str(place / "prompts"), "validate_every": 3}
    given = runs.online_run(place, POLICY, rows=rows, algorithm="policy_gradient", max_steps=5, **checks)
    given = replace(given, step=replace(given.step, max_rounds=2), models={"scorer": "judges:even"})

    runs.cut_off(place, given, 12)
    under_way = asked(place, "SELECT DISTINCT policy, step FROM samples WHERE stage = 'answers' ORDER BY ALL")
    assert under_way and {policy for policy, _ in under_way} == {POLICY}, "a run that is under way can be asked"
    execute(given)
    return place


def asked(root: Path, sql: str) -> list[Any]:
    with connect(str(root)) as db:
        return db.sql(sql).fetchall()


def drawn(root: Path) -> dict[int, list[dict[str, Any]]]:
    """The answers of every step, read from its datasets."""
    by_step: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for place in sorted((root / f"{POLICY}.run" / "rollouts").glob("step=*.answers")):
        by_step[int(place.name[5:11])] += Dataset.open(str(place)).read().to_pylist()
    return by_step


def test_answers_and_rewards_stand_in_the_views_by_step(root: Path) -> None:
    rows = [(step, row["sample_id"], row["reward"]) for step, all_of_it in drawn(root).items() for row in all_of_it]
    assert {step for step, _, _ in rows} == {1, 2, 3, 4, 5}
    labels = "policy = 'grpo/toy/policy-0123abcd' AND variant = '0123abcd' AND recipe = 'grpo' AND experiment = 'toy'"
    assert asked(
        root, f"SELECT step, sample_id FROM samples WHERE stage = 'answers' AND {labels} ORDER BY ALL"
    ) == sorted((step, name) for step, name, _ in rows)
    values = "SELECT step, sample_id, value FROM rewards WHERE scorer = 'reward' AND stage = 'answers' ORDER BY ALL"
    assert asked(root, values) == sorted(rows)
    assert asked(root, "SELECT step, count(*) FROM rewards WHERE stage = 'validation' GROUP BY step ORDER BY 1") == [
        (3, 16),
        (5, 16),
    ]
    gone = asked(root, "SELECT DISTINCT step, prompt_id FROM rejected WHERE reason = 'equal-rewards' ORDER BY ALL")
    assert gone == sorted((step, name) for step, name, rewards in grouped(root) if len({*rewards}) == 1)


def grouped(root: Path) -> list[tuple[int, str, list[float]]]:
    """Rewards of every prompt and step."""
    groups: dict[tuple[int, str], list[float]] = defaultdict(list)
    for step, rows in drawn(root).items():
        for row in rows:
            groups[step, row["prompt_id"]].append(row["reward"])
    return [(step, name, rewards) for (step, name), rewards in groups.items()]


def test_which_prompts_stopped_giving_signal_when_and_why(root: Path) -> None:
    """The three questions of the page, each against a loop over the answers."""
    page = pages.ROOT / "docs" / "questions.md"
    text = page.read_text(encoding="utf-8").partition("## Online runs")[2].partition("\n## ")[0]
    which, when, why = (part.partition("```")[0].strip().removesuffix(";") for part in text.split("```sql\n")[1:])
    groups = grouped(root)
    history: dict[str, list[tuple[int, bool, float]]] = defaultdict(list)
    for step, name, rewards in sorted(groups):
        history[name].append((step, len({*rewards}) > 1, max(rewards)))
    stopped = []
    for name, steps in history.items():
        signal = [step for step, has, _ in steps if has]
        if signal and signal[-1] < steps[-1][0]:
            stopped.append((POLICY, name, signal[-1], steps[-1][0], steps[-1][2]))
    assert stopped, "some prompt of a run of five steps"
    assert asked(root, which) == sorted(stopped, key=lambda row: (row[2], row[1]))
    counts = []
    for step in range(1, 6):
        own = [rewards for at, _, rewards in groups if at == step]
        equal = [rewards[0] for rewards in own if len({*rewards}) == 1]
        counts.append((POLICY, step, len(own), len(own) - len(equal), equal.count(1.0), equal.count(0.0)))
    assert asked(root, when) == counts
    without_signal = asked(root, why)
    assert [(step, name, reward) for _, step, name, reward, *_ in without_signal] == [
        (step, name, rewards[0]) for step, name, rewards in sorted(groups) if len({*rewards}) == 1
    ]
    answers = drawn(root)
    for _, step, name, _, different, cut, logprob in without_signal:
        own_rows = [row for row in answers[step] if row["prompt_id"] == name]
        assert different == len({row["response"] for row in own_rows})
        assert cut == sum(row["finish_reason"] == "length" for row in own_rows)
        means = [sum(row["logprobs"]) / len(row["logprobs"]) for row in own_rows]
        assert logprob == pytest.approx(sum(means) / len(means), abs=1e-5)


def test_lists_of_results_leave_rollouts_out(root: Path) -> None:
    workspace = read_workspace(str(root))
    assert not [one.place for one in workspace.entries if "/rollouts/" in one.place]
    rollouts = rollouts_of(workspace.rollouts)
    stages = {one.stage for one in rollouts}
    assert stages == {"prompts", "answers", "rows", "validation"} and len(rollouts) == len(workspace.rollouts)
    assert of_last_runs(rollouts, workspace.entries, {POLICY}) == rollouts
    assert of_last_runs(rollouts, workspace.entries, set()) == [], "another run of that name counts"
    others = [one for one in workspace.entries if one.place != POLICY]
    assert of_last_runs(rollouts, others, set()) == rollouts, "it is under way"
    assert asked(root, "SELECT count(*) FROM datasets WHERE dataset LIKE '%rollouts%'") == [(0,)]
