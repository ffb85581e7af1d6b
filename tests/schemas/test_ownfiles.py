"""Files beside results: whole, and never through a link to somebody else's file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from schemas.errors import StorageError
from schemas.store.ownfiles import append_file, own_folder, replace_file
from trainers.engine.reporting.metrics import Journal
from trainers.launch.start import write_outcome


def test_a_link_in_the_way_is_replaced_and_its_victim_stays(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.json", "outcome.json", "metrics.jsonl", "outcome.new", "metrics.jsonl.new"):
        (folder / name).symlink_to(victim)
    replace_file(folder / "config.json", "{}")
    write_outcome(folder, {"code": 0}, "")
    Journal(folder / "metrics.jsonl", 0).close()
    assert victim.read_text() == "mine"
    assert (folder / "config.json").read_text() == "{}" and not (folder / "config.json").is_symlink()
    assert not (folder / "outcome.json").is_symlink() and not (folder / "metrics.jsonl").is_symlink()
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


def test_nothing_is_appended_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "log").symlink_to(victim)
    with pytest.raises(StorageError):
        append_file(tmp_path / "log")
    assert victim.read_text() == "mine"
    for text in (b"a", b"b"):
        with append_file(tmp_path / "other") as file:
            file.write(text)
    assert (tmp_path / "other").read_bytes() == b"ab"


def test_a_folder_of_a_run_is_its_users_own(tmp_path: Path) -> None:
    own_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    own_folder(tmp_path / "a" / "b")
