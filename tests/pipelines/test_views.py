"""A command keeps the views over its data current, and ends well without."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb

from pipelines.runtime.views import refresh_views
from tests.pipelines.commands import luigi


def rows(folder: Path, count: int) -> None:
    lines = [json.dumps({"prompt": f"What is {number}?"}) for number in range(count)]
    (folder / f"{count}.jsonl").write_text("\n".join(lines) + "\n")


def count(folder: Path, view: str = "prompts") -> int:
    with duckdb.connect(folder / "quiver-data" / "catalog.duckdb", read_only=True) as db:
        return int(db.sql(f"SELECT count(*) FROM {view}").fetchall()[0][0])


def imported(folder: Path, size: int) -> None:
    rows(folder, size)
    done = luigi(
        folder, "Import", "--name", "own/rows", "--files", f"{size}.jsonl", "--format", "prompts", module="pipelines"
    )
    assert done.returncode == 0, done.stderr


def test_the_views_are_current_after_a_command_and_a_failure_of_theirs_is_none(tmp_path: Path) -> None:
    imported(tmp_path, 2)
    assert count(tmp_path) == 2
    imported(tmp_path, 3)
    assert (count(tmp_path), count(tmp_path, "everything.prompts")) == (3, 5)
    catalog = tmp_path / "quiver-data" / "catalog.duckdb"
    catalog.unlink()
    catalog.mkdir()
    (catalog / "in the way").touch()
    imported(tmp_path, 4)
    assert catalog.is_dir()
    assert "the catalog of" in "".join(path.read_text() for path in (tmp_path / "quiver-data" / "logs").iterdir())


def test_places_that_hold_no_workspace_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in ("s3://bucket/prefix", str(tmp_path / "nowhere"), str(tmp_path / "file")):
        refresh_views(place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
