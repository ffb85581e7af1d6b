"""Keys that stand twice: noticed in one shard and across shards, in bounded memory, and never by mistake."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies

from datakit.apply import apply
from datakit.columns import unique
from datakit.columns.unique import Runs, hashes
from datakit.io import Parquet
from datakit.label import Length
from schemas import PROMPTS
from schemas.errors import DataError


def prompts(*ids: str) -> pa.Table:
    table = PROMPTS.example(len(ids))
    return table.set_column(0, table.schema.field(0), pa.array(ids, pa.string()))


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize(
    ("ids", "cuts", "places"),
    [
        ("abcdea", (), "'a' in part 0 row 0 and part 0 row 5"),
        ("abcdea", (2, 4), "'a' in part 0 row 0 and part 2 row 1"),
        ("abcbcd", (3,), "'b' in part 0 row 1 and part 1 row 0"),
    ],
)
def test_a_key_that_stands_twice_is_an_error(put, tmp_path, ids, cuts, places, processes):
    with pytest.raises(DataError) as caught:
        apply(Length(column="prompt_id"), put(prompts(*ids), cuts), str(tmp_path / "out"), processes=processes)
    assert caught.value.slug == "duplicate-id"
    count = len(ids) - len(set(ids))
    assert caught.value.what == f"{count} prompt_id of label.length stand in several rows, first {places}"
    assert not (tmp_path / "out").exists()


def test_rows_without_a_key_may_repeat(put, tmp_path):
    given = put(prompts("a", "a"), (1,), PROMPTS.renamed("prompts", key=()))
    assert apply(Length(column="prompt_id"), given, str(tmp_path / "out")).num_rows == 2


def test_equal_hashes_of_different_keys_are_no_fault(put, tmp_path, monkeypatch):
    monkeypatch.setattr(unique, "mixed", lambda state: state & np.uint64(1))
    assert apply(Length(column="prompt_id"), put(prompts(*"abcdef"), (3,)), str(tmp_path / "out")).num_rows == 6


def test_a_reader_sets_a_given_id_aside_that_it_met_before(tmp_path):
    for name, ids in (("one", "abca"), ("two", "bd")):
        pq.write_table(prompts(*ids), tmp_path / f"{name}.parquet")
    op = Parquet(files=tuple(str(tmp_path / f"{name}.parquet") for name in ("one", "two")), kind="prompts")
    made = apply(op, [], str(tmp_path / "out"), max_rejected=2)
    assert made.read()["prompt_id"].to_pylist() == ["a", "b", "c", "d"]
    gone = made.read_rejected().to_pylist()
    assert [(row["place"], row["prompt_id"], row["reason"]) for row in gone] == [
        ("one.parquet:4", "a", "duplicate-id"),
        ("two.parquet:1", "b", "duplicate-id"),
    ]
    with pytest.raises(DataError, match=r"io\.parquet rejected 1 of the first 4 rows: one\.parquet:4"):
        apply(op, [], str(tmp_path / "none"))


@given(
    strategies.lists(
        strategies.tuples(strategies.text(max_size=20), strategies.integers(-(2**63), 2**63 - 1), strategies.booleans())
    ),
    strategies.integers(0, 5),
)
def test_hashes_are_equal_for_equal_keys_alone_wherever_they_stand(rows, start):
    columns = {name: pa.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(KINDS)}
    table = pa.table(columns)
    values = hashes(table, list(columns))
    assert len(set(values.tolist())) == len(set(rows))
    assert (hashes(table.slice(start), list(columns)) == values[start:]).all()


KINDS = (("text", pa.string()), ("number", pa.int64()), ("truth", pa.bool_()))


def test_other_kinds_of_keys_are_told_apart():
    for values in (pa.array([0.0, 1.5, None]), pa.array([[1], [1, 2], []]), pa.array(["", None, "\0"])):
        assert len(set(hashes(pa.table({"key": values}), ["key"]).tolist())) == 3
    assert len(set(hashes(pa.table({"key": pa.array([0.0, -0.0])}), ["key"]).tolist())) == 1


def test_runs_that_do_not_fit_in_memory_wait_in_a_file(monkeypatch):
    monkeypatch.setattr(unique, "IN_MEMORY", 1000)
    rng, runs, all_of_them = np.random.default_rng(0), Runs(), []
    for _ in range(20):
        all_of_them.append(np.sort(rng.integers(0, 1 << 64, 700, dtype=np.uint64)))
        runs.add(all_of_them[-1])
    assert sum(isinstance(run, np.memmap) for run in runs._runs) >= 18
    assert len(runs.suspects()) == 0
    twice = [all_of_them[3][0], all_of_them[7][699], all_of_them[19][350]]
    runs.add(np.sort(np.array(twice)))
    assert runs.suspects().tolist() == sorted(twice)
