"""Every command of README.md, docs/*.md and docs/methods/*.md is executed as it stands there, in the page's order.

Blocks below `<!-- slow -->` run with `make test-slow`; the few below `<!-- not run: why -->` never do. SQL of the
README runs in test_readme.py, over rows of every iteration.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from quiver import reference
from schemas.settings import parse
from tests import pages
from tests.pages import PAGES, ROOT, RUNS, SHOWN, Block, blocks
from trainers.config import Run

ALL = {page.name: blocks(page) for page in PAGES}
README_SQL = [block for block in ALL["README.md"] if block.language == "sql"]


def runs(name: str, *, slow: bool) -> list[Block]:
    here = [block for block in ALL[name] if block.runs and block not in README_SQL]
    return here if slow else [block for block in here if not block.mark]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pages.prepare(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [name for name in ALL if runs(name, slow=False)])
def test_the_quick_commands_of_a_page_run(name: str, folder: Path) -> None:
    for block in runs(name, slow=False):
        pages.execute(block, folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [name for name in ALL if runs(name, slow=True) != runs(name, slow=False)])
def test_all_commands_of_a_page_run(name: str, folder: Path) -> None:
    pages.model(folder / "my-model")
    if name == "evaluation.md":
        pages.model(folder / "my-model", max_position_embeddings=1024)  # six questions stand before each
    if name == "draft-plus.md":
        pages.diffusion(folder / "my-diffusion")
    if name == "launching.md":
        _quick(folder, "config.md")
    for block in runs(name, slow=True):
        pages.execute(block, folder)


def _quick(folder: Path, name: str) -> None:
    for block in runs(name, slow=False):
        pages.execute(block, folder)


def test_every_block_is_run_or_says_why_not() -> None:
    every = [block for page in ALL.values() for block in page]
    unknown = [f"{b.page.name}:{b.line} {b.language!r}" for b in every if b.language not in {*RUNS, *SHOWN}]
    assert not unknown, f"name the language: {unknown}"
    marks = {block.mark for block in every if block.language in RUNS}
    assert all(re.fullmatch(r"slow|not run: .{12,}|sql|", mark) for mark in marks), marks
    left_out = [f"{b.page.name}:{b.line}" for b in every if b.mark.startswith("not run")]
    assert len(left_out) <= 10, left_out


def test_no_command_hides_outside_a_fence() -> None:
    """An indented command would not be executed."""
    hidden = re.compile(r"^ {4,}(?:luigi|quiver|make|python3?|torchrun|\.venv|pip) ", re.MULTILINE)
    for page in PAGES:
        outside = pages._BLOCK.sub("", page.read_text(encoding="utf-8"))
        assert not hidden.search(outside), f"{page.name}: {hidden.findall(outside)}"


def config() -> dict[str, object]:
    (block,) = [block for block in ALL["config.md"] if block.language == "jsonc"]
    lines = [line for line in block.text.splitlines() if not line.strip().startswith("//")]
    return json.loads("\n".join(lines))  # type: ignore[no-any-return]


def test_the_commented_config_is_a_run() -> None:
    assert parse(Run, config()).learning.optim.schedule == "cosine"
    (lora,) = [json.loads(block.text) for block in ALL["config.md"] if block.language == "json"]
    assert parse(Run, lora).learning.lora is not None


def test_the_commented_config_has_every_key() -> None:
    def keys(value: object) -> set[str]:
        inner = value.values() if isinstance(value, dict) else []
        return {*(value if isinstance(value, dict) else ()), *(key for part in inner for key in keys(part))}

    shown = keys(config()) | keys(next(json.loads(b.text) for b in ALL["config.md"] if b.language == "json"))
    kinds = reference.run_settings().values()
    every = {field.name for kind in kinds for field in dataclasses.fields(kind) if field.init}
    assert every - shown == set()


def test_every_page_is_named_by_another() -> None:
    texts = {page: page.read_text(encoding="utf-8") for page in [*PAGES, ROOT / "CONTRIBUTING.md"]}
    for page in PAGES[1:]:
        assert any(page.name in text for other, text in texts.items() if other != page), page.name
