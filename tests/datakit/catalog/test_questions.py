"""Every question of the pages is one that `quiver sql` takes, whatever there is to answer it."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from datakit.catalog.ask import answered, workspace_process
from schemas import SAMPLES, Column
from tests.datakit.catalog.workspaces import REWARDED, Maker, rewarded, samples

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", ROOT / "docs/questions.md", *sorted((ROOT / "docs/examples").rglob("*.md"))]
QUESTIONS = [
    text.strip()
    for page in PAGES
    for block in re.findall(r"```sql\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for text in block.split(";")
    if text.strip()
]


def test_every_question_of_the_pages_can_be_asked(make: Maker) -> None:
    assert len(QUESTIONS) >= 20
    with workspace_process(make.root) as process:
        for question in QUESTIONS:
            assert list(answered(process, question)), question


def test_marks_of_people_meet_rewards_of_the_samples_that_they_saw(make: Maker) -> None:
    """Two recipes drew the same samples and rewarded them; people saw those of one."""
    for recipe in ("own", "other"):
        drawn = make(f"{recipe}/samples-00000001", SAMPLES, samples(4), op="generate.complete")
        given = rewarded(samples(4), [float(recipe == "own") + n for n in range(4)])
        make(f"{recipe}/rewards-00000001", REWARDED, given, drawn, op="label.reward", params={"column": "reward"})
        if recipe == "own":
            marks = samples(4).append_column("human", pa.array([1.0, 0.0, 0.0, 1.0]))
            marked = SAMPLES.adding(Column("human", pa.float64(), "of people"))
            make("curated/marked-00000001", marked, marks, drawn, op="label.human")
    [question] = [one for one in QUESTIONS if "human.sample_id" in one]
    with workspace_process(make.root) as process:
        rows = pa.Table.from_batches([*answered(process, question)]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("s3", 1.0, 4.0),
        ("s2", 0.0, 3.0),
        ("s1", 0.0, 2.0),
        ("s0", 1.0, 1.0),
    ]


def test_no_question_takes_a_sample_that_two_recipes_drew_for_one() -> None:
    texts = [*QUESTIONS, *(path.read_text(encoding="utf-8") for path in sorted((ROOT / "notebooks").glob("*.ipynb")))]
    both = re.compile(r"\b(rewards|samples)( AS \w+)? JOIN (rewards|samples)( AS \w+)? USING \((?P<columns>[^)]*)\)")
    joins = [match for text in texts for match in both.finditer(text)]
    assert len(joins) >= 6
    for join in joins:
        assert {"drawn", "step"} & {*join["columns"].split(", ")}, join[0]


@pytest.mark.parametrize("page", ["docs/questions.md"])
def test_every_question_stands_behind_words(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for before in re.findall(r"([^\n]*)\n\n<!-- slow -->\n\n```sql", text):
        assert before.endswith("?"), before
