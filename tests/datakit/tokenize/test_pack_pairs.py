"""tokenize.pack_pairs: on the conformance suite, and every token of every pair where it belongs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.op import Context
from datakit.tokenize import PackPairs
from schemas import PAIRS, Column
from schemas.dataset import Attempt, Dataset
from schemas.errors import ConfigError
from tests.datakit.fakes import Example

EXAMPLES = [Example(PackPairs(capacity=13), (PAIRS.example(12),))]
KIND = PAIRS.adding(Column("gap", pa.float64(), "a number"))


def pairs(count: int) -> pa.Table:
    """Pairs of 5 to 29 tokens a side, with a number and a source."""
    random = np.random.default_rng(0)
    columns = {"pair_id": [f"p{n}" for n in range(count)], "source": [f"s{n % 2}" for n in range(count)]}
    for side in ("chosen", "rejected"):
        ids = [random.integers(0, 60, random.integers(5, 30)).tolist() for _ in range(count)]
        columns |= {f"{side}_ids": ids, f"{side}_mask": [[n % 2 for n in range(len(row))] for row in ids]}
    return KIND.conform(pa.table({**columns, "gap": np.arange(count) / 2}))


def put(url: Path, table: pa.Table) -> Dataset:
    attempt = Attempt.begin(str(url), KIND)
    with attempt.shard(0) as writer:
        writer.write(table)
        file = writer.finish()
    return attempt.commit([file])


def split(packs: pa.Table) -> dict[str, dict]:
    """The pairs inside, by name."""
    inside = {}
    for pack in packs.to_pylist():
        starts = dict.fromkeys(("chosen", "rejected"), 0)
        for place, name in enumerate(pack["pair_ids"]):
            pair = {"gap": pack["gap"][place], "source": pack["sources"][place]}
            for side in starts:
                end = starts[side] + pack[f"{side}_lengths"][place]
                pair |= {f"{side}_{part}": pack[f"{side}_{part}"][starts[side] : end] for part in ("ids", "mask")}
                starts[side] = end
            inside[name] = pair
        assert starts == {side: len(pack[f"{side}_ids"]) for side in starts}
    return inside


def test_every_pair_is_inside_whole_and_none_twice() -> None:
    table = pairs(40)
    done = PackPairs(capacity=90, numbers=("gap",)).gather(table, Context(seed=3))
    assert done.rejected is None and done.counts["packed_rows"] == 40
    packs = done.rows
    sizes = [len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in packs.to_pylist()]
    assert max(sizes) <= 90 and sum(sizes) == done.counts["tokens"] and len(sizes) < 25
    names = [name for row in packs["pair_ids"].to_pylist() for name in row]
    assert sorted(names) == sorted(table["pair_id"].to_pylist())
    expected = {row.pop("pair_id"): row for row in table.to_pylist()}
    assert split(packs) == expected


def test_a_pair_longer_than_a_pack_is_set_aside(tmp_path: Path) -> None:
    table = pairs(10)
    packs = apply(PackPairs(capacity=40), put(tmp_path / "pairs", table), str(tmp_path / "packs"))
    long = {row["pair_id"] for row in table.to_pylist() if len(row["chosen_ids"]) + len(row["rejected_ids"]) > 40}
    inside = {name for row in packs.read()["pair_ids"].to_pylist() for name in row}
    assert 0 < len(long) < 10 and inside == set(table["pair_id"].to_pylist()) - long


def test_numbers_are_named_once_and_not_as_a_column_of_packs() -> None:
    for wrong in (("gap", "gap"), ("pair_ids",)):
        with pytest.raises(ConfigError, match="names a column twice"):
            PackPairs(capacity=9, numbers=wrong)
