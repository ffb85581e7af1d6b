"""Every question of the pages is one that `quiver sql` takes, whatever there is to answer it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from datakit.catalog.ask import answered, workspace_process
from tests.datakit.catalog.workspaces import Maker

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


@pytest.mark.parametrize("page", ["docs/questions.md"])
def test_every_question_stands_behind_words(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for before in re.findall(r"([^\n]*)\n\n<!-- slow -->\n\n```sql", text):
        assert before.endswith("?"), before
