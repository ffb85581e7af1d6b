"""Intermediate datasets that were removed after a run: reported, gone on from, and made anew where they are needed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import REST, damaged, digests, leftovers, luigi


def remove(folder: Path, *globs: str) -> list[Path]:
    """Remove what the globs below the root match, each at least one folder."""
    places = [place for glob in globs for place in sorted((folder / "quiver-data").glob(glob)) if place.is_dir()]
    assert len(places) >= len(globs), globs
    for place in places:
        shutil.rmtree(place)
    return places


def test_what_is_needed_is_made_anew_and_nothing_else(tmp_path: Path) -> None:
    assert luigi(tmp_path, "Toy").returncode == 0
    before = digests(tmp_path)
    [drawn] = remove(tmp_path, "toy/drawn-*")
    again = luigi(tmp_path, "Toy")
    assert (again.returncode, "nothing to do" in again.stderr, drawn.exists()) == (0, True, False)
    remove(tmp_path, "toy/kept-*", "toy/again-*")
    done = luigi(tmp_path, "Toy")
    assert done.returncode == 0 and "3 stages to do, 1 reused" in done.stderr
    assert digests(tmp_path) == before and damaged(tmp_path) == [] and leftovers(tmp_path) == []


def test_rows_that_lost_a_shard_are_an_error_and_not_a_bug(tmp_path: Path) -> None:
    assert luigi(tmp_path, "Toy").returncode == 0
    remove(tmp_path, "toy/again-*")
    [shard] = (tmp_path / "quiver-data/toy").glob("kept-*/part-00001.parquet")
    shard.unlink()
    done = luigi(tmp_path, "Toy")
    assert done.returncode == 11 and done.stderr.count("error[11/") == 1 and "Traceback" not in done.stderr
    assert "part-00001.parquet" in done.stderr


@pytest.mark.slow
def test_an_iteration_whose_intermediates_are_gone(tmp_path: Path) -> None:
    few = (*REST, "--digits-prompts", "300")
    assert luigi(tmp_path, *few, module="pipelines").returncode == 0
    before = digests(tmp_path)
    gone = remove(
        tmp_path, "rest/digits/iter=1/samples-*", "rest/digits/iter=1/rewards-*", "rest/digits/iter=1/step=1/kept-*"
    )
    reported = luigi(tmp_path, *few, module="pipelines")
    assert reported.returncode == 0 and "error[" not in reported.stderr
    for place in gone:
        assert f"{place} is gone: its figures are left out" in reported.stdout
    assert "order by reward" not in reported.stdout, "nothing is suggested that reads what is gone"
    following = luigi(tmp_path, *few, "--iteration", "2", module="pipelines")
    assert following.returncode == 0, following.stderr
    assert not any(place.exists() for place in gone), "what nobody needs is not made anew"
    remove(tmp_path, "rest/digits/iter=1/step=2/policy-*", "rest/digits/iter=1/step=2/shuffled*", "digits/pairs-*")
    resumed = luigi(tmp_path, *few, module="pipelines")
    assert resumed.returncode == 0, resumed.stderr
    now = digests(tmp_path)
    assert all(now[name] == before[name] for name in now if name in before and "policy" not in name)
    assert next(name for name in before if "step=2/policy" in name) in now and damaged(tmp_path) == []
