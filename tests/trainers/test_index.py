"""The index of a dataset: scanned once, kept beside the run, never believed when it is damaged or of something else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas import TOKENS
from schemas.dataset import Dataset
from schemas.errors import DataError, IntegrityError
from schemas.settings import parse
from tests.trainers import toys
from trainers import registry
from trainers.config import Run
from trainers.engine.data import index
from trainers.engine.data.feed import DatasetLoader
from trainers.engine.data.index import Index
from trainers.engine.data.rows import TokenDataset
from trainers.engine.megatron.parallel import Layout
from trainers.engine.training import build

ALGORITHMS = registry.algorithms()


def fed(folder: Path, dataset: Dataset, name: str = "sft", **shape: Any) -> DatasetLoader:
    run = parse(Run, toys.config(folder, algorithm=name, data=dataset.url))
    return build.feed(run, dataset, ALGORITHMS[name], toys.model(**shape), Layout(), shuffle=True)


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "policy.run" / "index").iterdir())


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return toys.put(tmp_path / "rows", TOKENS, toys.tokens(20), toys.tokens(11, 1, 20))


def test_a_second_launch_does_not_scan(tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fed(tmp_path, dataset)
    monkeypatch.setattr(TokenDataset, "_scanned", None)
    second = fed(tmp_path, dataset)
    for number in range(4):
        one, other = first.step(number), second.step(number)
        assert np.array_equal(one.rows, other.rows)
        assert all(a.tokens_1t.equal(b.tokens_1t) for a, b in zip(one.batches, other.batches, strict=True))
    assert second.source.groups == first.source.groups and second.source.sources == first.source.sources


@pytest.mark.parametrize("packed", [False, True])
def test_everything_comes_back(tmp_path: Path, dataset: Dataset, packed: bool) -> None:
    table = toys.tokens(10)
    rows = toys.put(tmp_path / "packs", toys.PACKS, toys.packed(table, (3, 4, 3))) if packed else dataset
    first = fed(tmp_path, rows).source.index
    again = Index.read(kept(tmp_path)[0], rows)
    assert again is not None and again.sources == first.sources
    for field in dataclasses.fields(Index):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(first, field.name))
    assert (again.inside_N is not None) == packed


@pytest.mark.parametrize("harm", ["flipped", "cut", "empty", "gone"])
def test_a_damaged_index_is_as_good_as_none(tmp_path: Path, dataset: Dataset, harm: str) -> None:
    wanted = fed(tmp_path, dataset).source.index
    (path,) = kept(tmp_path)
    good = path.read_bytes()
    middle = len(good) // 2
    bad = {"flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :], "cut": good[:-5], "empty": b""}
    path.unlink() if harm == "gone" else path.write_bytes(bad[harm])
    assert Index.read(path, dataset) is None
    np.testing.assert_array_equal(fed(tmp_path, dataset).source.lengths_NS, wanted.lengths_NS)
    assert path.read_bytes() == good


def test_it_is_of_these_rows_for_this_network_and_algorithm(tmp_path: Path, dataset: Dataset) -> None:
    fed(tmp_path, dataset)
    with pytest.raises(DataError, match="longer"):
        fed(tmp_path, dataset, max_sequence_length=8)
    fed(tmp_path, dataset, vocab_size=toys.VOCABULARY + 1)
    fed(tmp_path, toys.put(tmp_path / "others", TOKENS, toys.tokens(31, 7)))
    assert len(kept(tmp_path)) == 3
    pairs = toys.put(tmp_path / "pairs", ALGORITHMS["rm"].rows, toys.rows_for(ALGORITHMS["rm"], 9))
    fed(tmp_path, pairs, "rm", head="scalar")
    assert len(kept(tmp_path)) == 4
    limits = {"max_sequence_length": 48}
    places = {index.place(tmp_path, dataset, algorithm, limits) for algorithm in ALGORITHMS.values()}
    reads = {(one.sequences, one.numbers, one.vectors, one.per) for one in ALGORITHMS.values()}
    assert len(places) == len(reads) > 4, "one index for algorithms that read the same, as dpo and ipo do"


def test_shards_are_verified_as_without_an_index(tmp_path: Path, dataset: Dataset) -> None:
    fed(tmp_path, dataset)
    path = tmp_path / "rows" / "part-00000.parquet"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    steps = fed(tmp_path, dataset)
    with pytest.raises(IntegrityError, match="part-00000"):
        steps.step(0)


def test_a_place_that_cannot_be_written_is_done_without(tmp_path: Path, dataset: Dataset) -> None:
    (tmp_path / "policy.run").mkdir()
    (tmp_path / "policy.run" / "index").write_text("in the way")
    assert len(fed(tmp_path, dataset).source) == 31
