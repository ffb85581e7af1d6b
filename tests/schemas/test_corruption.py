"""Flipped bits and cut files: a reader gives the right rows or an error that names the file, never other
rows.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pyarrow as pa
import pytest

from schemas import SAMPLES
from schemas.dataset import Attempt, Dataset
from schemas.errors import IntegrityError
from schemas.shards import Verify

SEED = 20261121


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    attempt = Attempt.begin(str(tmp_path / "d"), SAMPLES, rows_per_group=50)
    writer = attempt.shard(0)
    writer.write(SAMPLES.example(200))
    return attempt.commit([writer.finish()])


def damage(dataset: Dataset, verify: Verify, flips: int, cuts: int) -> tuple[int, int]:
    """(refused, harmless) of `flips` flipped bits and `cuts` truncations; fails on the first wrong row."""
    path = Path(dataset.paths()[0])
    good, data = dataset.read(), path.read_bytes()
    chance, refused, harmless = random.Random(SEED), 0, 0
    for trial in range(flips + cuts):
        damaged = bytearray(data)
        at = chance.randrange(len(data))
        if trial < flips:
            damaged[at] ^= 1 << chance.randrange(8)
        else:
            del damaged[at:]
        path.write_bytes(damaged)
        os.utime(path, (trial, trial))
        try:
            table = Dataset.open(dataset.url, verify).read()
            pieces = pa.concat_tables(Dataset.open(dataset.url, verify).batches(0, 64))
        except IntegrityError as error:
            refused += "part-00000.parquet" in error.what
            continue
        assert table.equals(good), f"seed {SEED}, trial {trial}: other rows"
        assert pieces.equals(good), f"seed {SEED}, trial {trial}: other rows"
        harmless += 1
    path.write_bytes(data)
    assert refused + harmless == flips + cuts, "every refusal names the file"
    return refused, harmless


def test_verified_in_full_every_flip_and_cut_is_refused(dataset: Dataset) -> None:
    refused, harmless = damage(dataset, "full", flips=1200, cuts=300)
    print(f"full: 1200 flips, 300 cuts (seed {SEED}): {refused} refused, {harmless} harmless, 0 wrong")
    assert harmless == 0


def test_verified_by_size_page_checksums_keep_the_rows_right(dataset: Dataset) -> None:
    refused, harmless = damage(dataset, "size", flips=500, cuts=100)
    print(f"size: 500 flips, 100 cuts (seed {SEED}): {refused} refused, {harmless} harmless, 0 wrong")
    assert refused > harmless
