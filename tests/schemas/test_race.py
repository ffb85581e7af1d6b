"""Several processes publish into one folder at the same moment."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from schemas.dataset import Dataset
from schemas.store.commit import sweep
from tests.faults.checks import files_below
from tests.faults.forked import Ended, start, wait
from tests.faults.writers import write

ROUNDS = 8
SEED = 20261121


def race(url: str, salts: list[int]) -> list[Ended]:
    """One process per salt, all let go at the same time."""
    moment = time.monotonic() + 0.02 + 0.004 * len(salts)

    def work(salt: int) -> str:
        time.sleep(max(0.0, moment - time.monotonic()))
        return write(url, salt)

    return [wait(child) for child in [start(lambda salt=salt: work(salt)) for salt in salts]]


def test_identical_runs_all_succeed_and_one_manifest_stands(tmp_path: Path) -> None:
    calm = write(str(tmp_path / "calm"))
    wanted = files_below(str(tmp_path / "calm"))
    for turn in range(ROUNDS):
        url = str(tmp_path / f"d{turn}")
        ended = race(url, [0, 0, 0])
        assert [(end.code, end.result) for end in ended] == [(0, calm)] * 3, ended
        Dataset.open(url).check()
        assert files_below(url) == wanted


@pytest.mark.slow
def test_of_differing_runs_one_wins_and_the_others_are_reported(tmp_path: Path) -> None:
    wanted, winners = None, Counter[int]()
    for turn in range(ROUNDS):
        url = str(tmp_path / f"d{turn}")
        ended = race(url, [1, 2, 3])
        codes = [end.code for end in ended]
        assert sorted(codes) == [0, 15, 15], ended
        dataset = Dataset.open(url)
        dataset.check()
        assert dataset.content_digest == ended[codes.index(0)].result
        wanted = wanted or files_below(url)
        assert files_below(url) == wanted
        winners[codes.index(0)] += 1
    print(f"race: {ROUNDS} rounds of 3, winners {dict(winners)}")


def test_killing_some_of_the_racers_harms_no_other(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    for turn in range(ROUNDS):
        url = str(tmp_path / f"d{turn}")
        children = [start(lambda salt=salt, url=url: write(url, salt)) for salt in (0, 1, 2)]
        time.sleep(chance.random() * 0.03)
        os.kill(children[0][0], 9)
        codes = [wait(child).code for child in children]
        assert codes[0] in (-9, 0, 15), (SEED, turn, codes)
        assert sorted(codes[1:]) in ([0, 15], [15, 15]), (SEED, turn, codes)
        Dataset.open(url).check()
        sweep(url)
        assert not [name for name in files_below(url) if "_attempt" in name], (SEED, turn)
