"""The questions of docs/questions.md, asked of two runs: the embedded one, and that of docs/examples/hh.

Both are made small: fewer rows and steps, the same graph, and of the example the same file. What makes new rows by hand
is left to the page's own test (tests/test_pages.py), which runs the whole page over the embedded run.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from datakit.sql import connect
from tests import pages
from tests.pages import ROOT, Block, blocks

PAGE = ROOT / "docs" / "questions.md"
EXAMPLE = ROOT / "docs" / "examples" / "hh"
SMALLER = {
    "prompts_per_iteration = 500": "prompts_per_iteration = 64",
    "samples_per_prompt = 8": "samples_per_prompt = 4",
    "max_new_tokens = 64": "max_new_tokens = 24",
    '"epochs": 5': '"epochs": 1',
    '"epochs": 2': '"epochs": 1',
}
BY_HAND = ("my_judge", "marks.csv", "verdicts", "label.human", "human.value")
"""Words of blocks that make rows by hand, or ask for these."""
NO_RULE = {
    "What is right on held-out prompts, for each policy that was asked?",
    "Where do the reward model and the rule disagree most?",
    "Do two scorers mean the same?",
    "And which answers divide them most?",
    "Is a reward over-optimised?",
}
"""Answered by no row where nothing but a reward model judges."""
NONE_IS_AN_ANSWER = {"Which prompts have answers of one reward alone?", "Do the best answers say the same?"}


def questions() -> dict[str, Block]:
    """Each block of the page that asks, by the line of words before it that ends in a question mark."""
    text = PAGE.read_text(encoding="utf-8")
    online = text[: text.index("## Online runs")].count("\n"), text[: text.index("## From an answer")].count("\n")
    asked: dict[str, Block] = {}
    for block in blocks(PAGE):
        if any(word in block.text for word in BY_HAND) or online[0] < block.line < online[1]:
            continue
        paragraphs = "\n".join(text.splitlines()[: block.line]).split("\n\n")
        asking = next((one for one in reversed(paragraphs) if "?" in one), "The whole of it?").replace("\n", " ")
        question = re.findall(r"[^.?:`|>]*\?", asking)[-1].strip()
        asked[question if block.language == "sql" else f"{question} ({block.line})"] = block
    return asked


def ask(folder: Path, named: Mapping[str, str], nothing: frozenset[str]) -> int:
    """Ask every question of the run in `folder`, whose results are `named` otherwise; how many had rows as an answer.
    Those of `nothing` may have none.
    """
    answered = 0
    for question, block in questions().items():
        lines = [line for line in block.text.splitlines() if not line.startswith("luigi ")]
        text = "\n".join(lines) + "\n"
        for one, other in named.items():
            text = text.replace(one, other)
        if block.language == "sql":
            with connect(folder / "quiver-data") as db:
                rows = db.sql(text).fetchall()
            assert rows or question in nothing, question
            answered += bool(rows)
        else:
            pages.execute(replace(block, text=text), folder)
            answered += 1
    return answered


def rewards_as_their_files_say(root: Path) -> None:
    """One question against its Parquet files: mean reward and number of samples, by iteration."""
    asked = "SELECT count(*), avg(value) FROM rewards WHERE scorer = 'reward' AND stage = 'rewards' AND iteration = {}"
    places = sorted(root.glob("rest/*/iter=*/rewards-*"))
    assert places
    with connect(root) as db:
        for place in places:
            files = sorted(map(str, place.glob("part-*.parquet")))
            rewards = ds.dataset(files).to_table(columns=["reward"])["reward"]
            [row] = db.sql(asked.format(place.parent.name.removeprefix("iter="))).fetchall()
            assert row == (len(rewards), pytest.approx(pc.mean(rewards).as_py()))


def test_there_are_more_than_twenty() -> None:
    assert len(questions()) >= 40
    assert questions().keys() >= NO_RULE | NONE_IS_AN_ANSWER


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_are_answered_by_the_embedded_run(tmp_path: Path) -> None:
    pages.prepare(tmp_path)
    [run] = [one for one in blocks(PAGE) if one.text.startswith("luigi --module pipelines RestIteration\n")]
    pages.execute(run, tmp_path)
    rewards_as_their_files_say(tmp_path / "quiver-data")
    assert ask(tmp_path, {}, frozenset()) == len(questions())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_and_more_are_answered_by_the_example(shared_data: Path, tmp_path: Path) -> None:
    shutil.copy(shared_data / "hh-rlhf" / "helpful-base.test.jsonl.gz", tmp_path)
    settings = (EXAMPLE / "luigi.cfg").read_text()
    for one, other in SMALLER.items():
        assert one in settings
        settings = settings.replace(one, other)
    (tmp_path / "luigi.cfg").write_text(settings)
    run = Block(EXAMPLE / "README.md", 0, "sh", "luigi --module pipelines RestIteration --iteration 2\n", "")
    pages.execute(run, tmp_path)
    rewards_as_their_files_say(tmp_path / "quiver-data")
    named = {"rest/digits": "rest/hh", "digits/policy": "hh/policy"}
    may_be_none = NO_RULE | NONE_IS_AN_ANSWER
    answered = ask(tmp_path, named, frozenset(may_be_none))
    assert answered >= max(20, len(questions()) - len(may_be_none))
