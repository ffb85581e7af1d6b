"""Where saves lie: which of them are complete, what was never finished, what goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schemas.manifest import MANIFEST
from trainers.images.saves import Saves
from trainers.save_folders import SaveFolders


def begun(folder: Path, step: int, *names: str) -> None:
    place = SaveFolders(folder).place(step)
    place.mkdir(parents=True)
    for name in names:
        (place / name).write_text("x")


def test_saves_count_once_their_manifest_is_there(tmp_path: Path) -> None:
    saves = SaveFolders(tmp_path / "saves")
    assert (saves.newest(), saves.places(), saves.look()) == (0, {}, ([], []))
    begun(saves.folder, 2, MANIFEST, "weights")
    begun(saves.folder, 4, "weights")  # whose manifest was lost: damaged, and looked at
    begun(saves.folder, 100_000_000, MANIFEST)
    begun(saves.folder, 8)
    (saves.folder / "step-9").mkdir()
    assert [*sorted(saves.places())] == [2, 4, 8, 100_000_000] and [*sorted(saves.complete())] == [2, 100_000_000]
    assert saves.newest() == 100_000_000 and saves.place(2).name == "step-00000002"
    assert saves.look() == ([2, 4, 100_000_000], [8]) and not saves.place(8).exists()


def test_what_goes_is_never_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = SaveFolders(tmp_path)
    begun(tmp_path, 2, MANIFEST)

    def killed(path: Path, **_: Any) -> None:
        assert not saves.places() and path.name.startswith("removed-step-00000002-")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("trainers.save_folders.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            saves.remove(2)
    assert saves.look() == ([], []) and not [*tmp_path.iterdir()]


def test_a_save_of_images_that_was_cut_off_is_no_damaged_one(tmp_path: Path) -> None:
    """Whatever stands beside the attempt."""
    begun(tmp_path, 2, "_attempt-0a", "notes")
    given: Any = {"base": "", "identity": "", "keep_last": 2}
    unused: Any = None
    assert Saves(tmp_path, unused, **given).load() == (0, {})
