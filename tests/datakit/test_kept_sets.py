"""Jaccard similarities of kept sets, by pairs and all with all, against Python's sets."""

from __future__ import annotations

import random

import numpy as np
import pytest

from datakit.columns import kept_sets, shared_hashes
from datakit.columns.kept_sets import KeptSets
from datakit.columns.ngrams import Runs


def drawn(seed: int, rows: int) -> list[set[int]]:
    """Sets of up to 28 hashes: some that many have, some that few have, some of one row; a few are empty or equal."""
    rng = random.Random(seed)
    common, few = ([rng.getrandbits(64) for _ in range(size)] for size in (10, 40))
    own = ({rng.getrandbits(64) for _ in range(rng.randrange(9))} for _ in range(rows - 2))
    sets = [{*rng.sample(common, rng.randrange(11)), *rng.sample(few, rng.randrange(11)), *one} for one in own]
    return [set() if rng.random() < 0.1 else one for one in sets] + [sets[0], sets[3]]


def jaccard(a: set[int], b: set[int]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


@pytest.mark.parametrize(("most", "cells", "common"), [(1 << 20, 1 << 22, 8), (50, 7, 8), (50, 200, 1), (1, 1, 1000)])
def test_all_with_all_and_pair_by_pair_are_those_of_sets(
    monkeypatch: pytest.MonkeyPatch, most: int, cells: int, common: int
) -> None:
    """However many are compared at once, whichever hashes are columns of the matrix."""
    monkeypatch.setattr(kept_sets, "_FACING", most)
    monkeypatch.setattr(kept_sets, "_TOGETHER", most)
    monkeypatch.setattr(shared_hashes, "_CELLS", cells)
    monkeypatch.setattr(shared_hashes, "_COMMON", common)
    sets = drawn(1, 60)
    with KeptSets() as kept:
        for some in (sets[:25], sets[25:]):
            keys = np.array([key for one in some for key in sorted(one)], np.uint64)
            kept.add(Runs(keys, np.concatenate([[0], np.cumsum([len(one) for one in some])])))
        rows, others = np.arange(1, 60, 3), np.arange(59, -1, -1)
        facing = kept.facing(rows).similarities(others)
        expected = np.array([[jaccard(sets[row], sets[other]) for other in others] for row in rows])
        np.testing.assert_array_equal(facing, expected)
        one, other = (grid.ravel() for grid in np.meshgrid(rows, others, indexing="ij"))
        np.testing.assert_array_equal(kept.similarities(one, other), expected.ravel())
    assert 0 < expected.mean() < 1 and (expected == 1).sum() >= len(rows)


def test_sets_without_a_hash_are_like_no_other() -> None:
    with KeptSets() as kept:
        kept.add(Runs(np.empty(0, np.uint64), np.zeros(3, np.int64)))
        assert kept.facing(np.arange(2)).similarities(np.arange(2)).tolist() == [[0.0, 0.0], [0.0, 0.0]]
