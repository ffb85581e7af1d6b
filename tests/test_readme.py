"""What the pages promise: their SQL runs on data laid out as they say, and the commands they name exist."""

from __future__ import annotations

import collections
import inspect
import itertools
import re
from pathlib import Path

import pyarrow as pa
import pytest

from datakit.sql import connect
from schemas import SAMPLES, Column, Schema
from schemas.dataset import Attempt

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs" / "examples").rglob("*.md")])
EVERY_PAGE = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
REWARD = Column("reward", pa.float64(), "by the reward model")
WHY = (
    Column("reason", pa.string(), "why it went"),
    Column("value", pa.float64(), "what was measured", nullable=True),
    Column("threshold", pa.string(), "what it was held against", nullable=True),
)


def statements() -> list[tuple[str, str]]:
    queries = []
    for page in PAGES:
        name = page.parent.name if page.parent != ROOT else "readme"
        for block in re.findall(r"```sql\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            queries += [(name, part.strip()) for part in block.split(";") if part.strip()]
    return queries


def write(url: Path, schema: Schema, rejected: Schema | None = None) -> None:
    with Attempt.begin(str(url), schema, rejected) as attempt:
        writers = [attempt.shard(0), *([attempt.rejected_shard(0)] if rejected else [])]
        files = []
        for writer, kind in zip(writers, (schema, rejected), strict=False):
            assert kind is not None
            writer.write(kind.example(3))
            files.append(writer.finish())
        attempt.commit(files[:1], files[1:])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two iterations with the labels that the recipes give."""
    top = tmp_path_factory.mktemp("readme")
    rewarded = SAMPLES.adding(REWARD)
    for number, experiment in itertools.product((1, 2), ("digits", "hh", "politeness")):
        iteration = top / "quiver-data" / "rest" / experiment / f"iter={number}"
        write(iteration / "samples-0000aaaa", SAMPLES)
        write(iteration / "rewards-0000aaaa", rewarded)
        write(iteration / "answers.rewards-0000aaaa", rewarded)
        write(iteration / "step=1" / "kept-0000aaaa", rewarded, rewarded.adding(*WHY))
    write(top / "quiver-data" / "politeness" / "first" / "answers.rewards-0000aaaa", rewarded)
    return top


@pytest.mark.parametrize(("page", "sql"), statements(), ids=lambda part: part[:40] if "\n" in part else part)
def test_the_sql_of_a_page_runs(page: str, sql: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    with connect("quiver-data") as connection:
        assert connection.sql(sql).fetchall(), f"{page}: no rows"


def test_every_stage_of_the_readme_is_a_command_and_the_reverse() -> None:
    from luigi.task_register import Register

    import pipelines.recipes
    from pipelines.commands.command import Command

    table = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- stages -->")[1].split("\n\n")[1]
    commands = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    registered = {name: task for name, task in Register._get_reg().items() if inspect.isclass(task)}
    tasks = {name: task for name, task in registered.items() if task.__module__.startswith("pipelines.")}
    goals = {name for name, task in tasks.items() if issubclass(task, Command) and not inspect.isabstract(task)}
    older = {name for name in goals if tasks[name].__bases__[0].__name__ in goals - {"_Operation"}}
    stages = {name for name in goals - older - set(vars(pipelines.recipes)) if not name.startswith("_")}
    assert commands == stages


def test_every_algorithm_stands_in_the_support_matrix() -> None:
    from trainers.registry import algorithms

    row = re.search(r"^\| training (.*?) \(", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert row is not None
    assert sorted(re.findall(r"`(\w+)`", row.group(1))) == sorted(algorithms())


def test_no_line_of_the_changelog_begins_as_another() -> None:
    lines = [line[:60] for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if len(line) >= 60]
    assert [line for line, count in collections.Counter(lines).items() if count > 1] == []


def test_what_the_threat_model_points_at_is_there() -> None:
    named = re.findall(r"`([a-z_/]+/[a-z_]+\.py)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(named) > 5 and [name for name in named if not (ROOT / name).is_file()] == []


def test_what_a_page_links_to_and_the_notebooks_that_it_names_are_there() -> None:
    lost = []
    for page in EVERY_PAGE:
        text = page.read_text(encoding="utf-8")
        linked = [page.parent / name for name in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)]
        named = [ROOT / name for name in re.findall(r"`((?:notebooks|docs)/[\w./-]+\.(?:ipynb|md|png))`", text)]
        lost += [f"{page.name}: {place.name}" for place in (*linked, *named) if not place.is_file()]
    assert not lost


def test_every_door_of_the_pages_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = "".join(page.read_text(encoding="utf-8") for page in [*PAGES, ROOT / "CONTRIBUTING.md"])
    for door in set(re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE)):
        assert re.search(rf"^{door}:", makefile, re.MULTILINE), f"make {door}"
