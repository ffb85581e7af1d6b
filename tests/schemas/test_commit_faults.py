"""Every system call of a whole run fails once: three shards and one of rejected rows, then the rerun."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.dataset import Dataset
from schemas.errors import QuiverError
from tests.faults.checks import Undisturbed, five_checks
from tests.faults.faultos import faulty
from tests.faults.forked import Ended, forked
from tests.faults.writers import write, write_in_place, write_unsynced
from tests.tail import late

ERRNOS = {"ENOSPC": "no-space", "EDQUOT": "quota", "EROFS": "read-only", "EMFILE": "too-many-files"}


def points(job: Callable[[str], object], url: str, kind: str, spare: str) -> int:
    with faulty(kind, 0, spare) as fault:
        job(url)
    shutil.rmtree(url)
    return fault.counted


def disturbed(job: Callable[[str], object], url: str, kind: str, n: int, spare: str) -> Ended:
    def work() -> None:
        with faulty(kind, n, spare):
            job(url)

    return forked(work)


def every_point(job: Callable[[str], object], folder: Path, kind: str, first: int = 1, step: int = 1) -> int:
    """Run `job` once per point from the `first`, with the five checks after each; returns how many were tried."""
    spare = folder / "spare"
    spare.mkdir()
    calm = str(folder / "calm")
    job(calm)
    wanted = Undisturbed.of(Dataset.open(calm), "sample_id")
    url = str(folder / "out" / "d")
    count = points(job, url, kind, str(spare))
    assert count > 10, "the job goes around the stores"
    for n in range(first, count + 1, step):
        shutil.rmtree(folder / "out", ignore_errors=True)
        shutil.rmtree(spare)
        spare.mkdir()
        ended = disturbed(job, url, kind, n, str(spare))
        codes = (-9,) if kind in ("kill", "power") else (0, 12)
        try:
            five_checks(url, ended, lambda: forked(lambda: job(url)), wanted, column="sample_id", codes=codes)
        except (AssertionError, QuiverError) as error:
            raise AssertionError(f"{kind} at point {n} of {count}: {error}") from error
        if ended.code == 12 and kind in ERRNOS:
            assert ended.slug == ERRNOS[kind], ended
            assert kind in ended.line, ended.line
            assert str(folder) in ended.line, ended.line
    return len(range(first, count + 1, step))


POINTS = [("kill", 1, 2), late("kill", 2, 2), ("power", 1, 2), late("power", 2, 2), late("ENOSPC", 1, 1)]
POINTS += [late("EIO", 1, 1), *(late(kind, 1, 3) for kind in ("EROFS", "EDQUOT", "EACCES", "EMFILE"))]
"""Every point or every second one, the others in the tail."""


@pytest.mark.parametrize(("kind", "first", "step"), POINTS)
def test_every_point_of_a_run_may_fail(kind: str, first: int, step: int, tmp_path: Path) -> None:
    count = every_point(write, tmp_path, kind, first, step)
    print(f"{kind}: {count} points, 0 torn, 0 lost")


@pytest.mark.parametrize("kind", ["kill", "ENOSPC"])
def test_the_oracle_catches_a_writer_that_trusts_what_exists(kind: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="at point"):
        every_point(write_in_place, tmp_path, kind)


def test_the_oracle_catches_a_writer_that_never_syncs(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="at point"):
        every_point(write_unsynced, tmp_path, "power")


def test_what_a_killed_promotion_left_is_gone_even_if_the_next_run_differs(tmp_path: Path) -> None:
    url = str(tmp_path / "d")
    count = points(write, url, "kill", "")
    seen = set()
    for n in range(count // 2, count + 1):
        shutil.rmtree(url, ignore_errors=True)
        disturbed(write, url, "kill", n, "")
        if Dataset.exists(url):
            continue
        seen.add(sum(name.startswith("part-") for name in os.listdir(url)))
        forked(lambda: write(url, salt=1, shards=1))
        assert sorted(os.listdir(url)) == ["_manifest.json", "part-00000.parquet", "rejected"]
        Dataset.open(url).check()
    assert seen == {0, 1, 2, 3}, "some promotions were cut half-way"
