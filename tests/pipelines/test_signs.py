"""Signs of a page, against numpy and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datakit.catalog.ask import workspace_process
from datakit.catalog.workspace import read_workspace
from pipelines.report.html.blocks import Grid, Section
from pipelines.report.html.record import RunRecord
from pipelines.report.html.reported import ReportedRun
from pipelines.report.html.signs import signs
from schemas import REPORTS, SAMPLES, Column, Dataset
from tests.datakit.catalog.workspaces import REWARD, Maker

CORRECT = Column("correct", pa.float64(), "1 for a right answer")


def answers(texts: list[str], rewards: list[float], prompts: list[str], correct: list[float] | None = None) -> pa.Table:
    rows = SAMPLES.example(len(texts))
    for name, values in {"response": texts, "prompt_id": prompts}.items():
        at = rows.column_names.index(name)
        rows = rows.set_column(at, rows.schema.field(at), pa.array(values))
    rows = rows.append_column(REWARD.field, pa.array(rewards))
    return rows if correct is None else rows.append_column(CORRECT.field, pa.array(correct))


def shown(root: Path, made: list[Dataset]) -> Section | None:
    places = tuple(Path(one.url).relative_to(root).as_posix() for one in made)
    with workspace_process(str(root)) as process:
        return signs(
            ReportedRun(read_workspace(str(root)), RunRecord(task="x", results=places, environment={}), process)
        )


def grid(section: Section | None, number: int) -> dict[str, list[str]]:
    assert section is not None
    block = section.blocks[number]
    assert isinstance(block, Grid)
    return {sign: values for sign, *values, _ in block.rows}


def test_of_samples_against_numpy(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    lengths, prompts = rng.integers(1, 5, 200), rng.integers(0, 20, 200)
    rewards = np.where(prompts < 5, 1.0, lengths + rng.normal(size=200)).round(3)
    best = np.argsort(-rewards, kind="stable")[:20]
    texts = ["x" * int(length) for length in lengths]
    for number, row in enumerate(best):
        texts[row] = "A  b" if number % 2 else f" a b{'c' * number}"
    schema = SAMPLES.adding(REWARD)
    rows = answers(texts, rewards.tolist(), [f"p{one}" for one in prompts])
    made = Maker(tmp_path)("rest/x/iter=1/rewards-00000001", schema, rows, op="label.reward")
    values = grid(shown(tmp_path, [made]), 0)
    letters = np.array([len(text) for text in texts])
    within = sum((letters == n).sum() * rewards[letters == n].var() for n in {*letters}) / (200 - len({*letters}))
    spread = [np.ptp(rewards[prompts == one]) for one in {*prompts} if (prompts == one).sum() > 1]
    assert values["correlation of reward and length"] == [f"{np.corrcoef(rewards, letters)[0, 1]:+.2f}"]
    assert values["spread of rewards that length explains"] == [f"{1 - within / rewards.var(ddof=1):.1%}"]
    assert values["prompts whose answers are worth the same"] == [f"{np.mean(np.array(spread) == 0):.1%}"]
    for number, row in enumerate(best):
        texts[row] = "a b" if number % 2 else f"a b{'c' * number}"
    once = {(prompts[row], texts[row]) for row in best}
    assert len(once) < 20, "a prompt's equal answers count once"
    repeated = 1 - len({text for _, text in once}) / len(once)
    assert values["best answers that repeat another prompt's"] == [f"{repeated:.1%}"]


def test_right_answers_that_a_prompt_got_several_times_are_no_trick(tmp_path: Path) -> None:
    """Eight right answers to each prompt; of those rewarded alike the best tenth is drawn by lot, whatever they say."""
    texts, prompts = [f"{place % 50}" for place in range(400)], [f"p{place % 50}" for place in range(400)]
    rows = answers(texts, [1.0] * 400, prompts)
    made = Maker(tmp_path)("rest/x/iter=1/rewards-00000001", SAMPLES.adding(REWARD), rows, op="label.reward")
    assert grid(shown(tmp_path, [made]), 0)["best answers that repeat another prompt's"] == ["0.0%"]
    one_trick = answers(["please"] * 100 + texts[:300], [2.0] * 100 + [1.0] * 300, prompts)
    other = tmp_path / "other"
    made = Maker(other)("rest/x/iter=1/rewards-00000001", SAMPLES.adding(REWARD), one_trick, op="label.reward")
    [share] = grid(shown(other, [made]), 0)["best answers that repeat another prompt's"]
    assert float(share.rstrip("%")) > 90


@pytest.mark.parametrize("ties", [False, True])
def test_of_held_out_answers_by_all_pairs(tmp_path: Path, ties: bool) -> None:
    rng, make, made, above = np.random.default_rng(5), Maker(tmp_path), [], []
    schema = SAMPLES.adding(REWARD, CORRECT)
    for number, (right, gain) in enumerate(((0.5, 0.0), (0.4, 1.0), (0.6, 2.0))):
        correct = (np.arange(60) < 60 * right).astype(float)
        rewards = (rng.normal(size=60) + correct + gain).round(0 if ties else 6)
        good, bad = rewards[correct == 1], rewards[correct == 0]
        wins = (bad[:, None] > good).mean() + (bad[:, None] == good).mean() / 2
        above.append(f"{wins:.1%}")
        folder = f"rest/x/iter={number}/" if number else "rest/x/first."
        rows = answers(["a"] * 60, rewards.tolist(), [f"p{one}" for one in range(60)], correct.tolist())
        judged = make(f"{folder}answers.rewards-00000001", schema, rows, op="label.reward")
        figures = pa.table({"stage": ["x"], "metric": ["reward.mean"], "value": [0.0]}, schema=REPORTS.arrow)
        made += [judged, make(f"{folder}evaluation-00000001", REPORTS, figures, judged, op="report.measure")]
    section = shown(tmp_path, made)
    values = grid(section, 0)
    assert section is not None and len(section.blocks) == 1, "held-out answers are no samples"
    assert values["wrong answers rated above right ones"] == above
    assert values["reward up, right answers down"] == ["-", "yes", "no"]
    assert isinstance(section.blocks[0], Grid) and section.blocks[0].columns == (
        "sign",
        "first",
        "1",
        "2",
        "how it is read",
    )
    assert section.blocks[0].notes[0].startswith("24 of 60 held-out prompts"), "0.6 of them were right once"


def test_rewards_that_are_all_the_same_and_answers_that_are_all_right_show_no_number(tmp_path: Path) -> None:
    make = Maker(tmp_path)
    rows = answers(["a", "b"], [1.0, 1.0], ["p", "q"])
    made = [make("rest/x/iter=1/rewards-00000001", SAMPLES.adding(REWARD), rows, op="label.reward")]
    rows = answers(["a", "b"], [1.0, 2.0], ["p", "q"], [1.0, 1.0])
    judged = make("rest/x/iter=1/answers-00000001", SAMPLES.adding(REWARD, CORRECT), rows, op="label.reward")
    figures = pa.table({"stage": ["x"], "metric": ["reward.mean"], "value": [0.0]}, schema=REPORTS.arrow)
    made += [judged, make("rest/x/iter=1/evaluation-00000001", REPORTS, figures, judged, op="report.measure")]
    section = shown(tmp_path, made)
    assert [values[:3] for values in grid(section, 0).values()] == [["-"], ["-"], ["-"], ["0.0%"]]
    assert grid(section, 1)["wrong answers rated above right ones"] == ["-"]


def test_lengths_that_are_all_different_explain_nothing_and_noise_next_to_nothing(tmp_path: Path) -> None:
    """Means of 40 lengths with two answers each explain half of a spread that is noise."""
    rng, make = np.random.default_rng(11), Maker(tmp_path)
    for number, lengths in enumerate((np.arange(1, 81), np.repeat(np.arange(1, 41), 2)), 1):
        texts = ["x" * int(length) for length in lengths]
        rows = answers(texts, rng.normal(size=80).tolist(), [f"p{one}" for one in range(80)])
        make(f"rest/x/iter={number}/rewards-00000001", SAMPLES.adding(REWARD), rows, op="label.reward")
    made = [Dataset.open(str(tmp_path / f"rest/x/iter={number}/rewards-00000001")) for number in (1, 2)]
    alone, noise = grid(shown(tmp_path, made), 0)["spread of rewards that length explains"]
    assert alone == "-" and abs(float(noise.rstrip("%"))) < 35
