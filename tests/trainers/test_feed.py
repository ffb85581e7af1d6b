"""What a trainer reads, and in which order: every row once per epoch, whatever the world and wherever it goes on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from schemas import PACKS, TOKENS
from schemas.dataset import Dataset
from schemas.errors import DataError
from tests.trainers import toys
from trainers import registry
from trainers.engine.data import feed, rows
from trainers.engine.data.batch import assemble
from trainers.engine.data.feed import BatchSharding, DatasetLoader, split_over_dp
from trainers.engine.data.rows import Limits, TokenDataset

SFT, RM, KD = (registry.algorithms()[name] for name in ("sft", "rm", "kd"))
LIMITS = Limits(48, toys.VOCABULARY)


def source(folder: Path, *tables: pa.Table) -> TokenDataset:
    return TokenDataset(toys.put(folder / "rows", TOKENS, *tables), SFT, LIMITS)


def names(feed: DatasetLoader, step: int) -> list[str]:
    return feed.source.names(feed.rows(step).tolist())


def test_an_epoch_reads_every_row_once(tmp_path: Path) -> None:
    steps = DatasetLoader(
        source(tmp_path, toys.tokens(20), toys.tokens(11, 1, 20)), batch_rows=12, seed=3, sharding=BatchSharding()
    )
    assert steps.steps_per_epoch == 3
    epochs = [[name for step in range(e * 3, e * 3 + 3) for name in names(steps, step)] for e in range(3)]
    everyone = sorted(f"s{i}" for i in range(31))
    assert [sorted(epoch) for epoch in epochs] == [everyone] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    assert [len(names(steps, step)) for step in range(4)] == [12, 12, 7, 12]
    assert steps.place(3) == (1, 0) and steps.place(5) == (1, 24)


def test_the_order_depends_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    read = source(tmp_path, toys.tokens(20))
    one, other = (
        DatasetLoader(read, batch_rows=4, seed=3, sharding=cut) for cut in (BatchSharding(), BatchSharding(1, 2, 8, 2))
    )
    backwards = [names(other, step) for step in reversed(range(10))]
    assert [names(one, step) for step in range(10)] == backwards[::-1]
    assert names(DatasetLoader(read, batch_rows=4, seed=4, sharding=BatchSharding()), 0) != names(one, 0)


def test_windows_hold_whole_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = source(tmp_path, toys.tokens(40))
    assert len(read.groups) == 6
    monkeypatch.setattr(feed, "WINDOW_TOKENS", 200)
    order = feed.shuffled(read, 0, 0)
    assert sorted(order) == list(range(40))
    blocks = [int(row) // 7 for row in order]
    runs = 1 + sum(a != b for a, b in itertools.pairwise(blocks))
    assert runs < 40, "rows of one group stay near each other"
    monkeypatch.setattr(feed, "WINDOW_TOKENS", 1)
    single = [int(row) // 7 for row in feed.shuffled(read, 0, 0)]
    assert sum(a != b for a, b in itertools.pairwise(single)) == 5, "one window per row group"


def test_few_row_groups_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = source(tmp_path, toys.tokens(40))
    monkeypatch.setattr(rows, "CACHED_TOKENS", 150)
    samples = [read.rows([number])[0]["input_ids"].tolist() for number in range(40)]
    assert samples == toys.tokens(40)["input_ids"].to_pylist()
    assert len(read._cache) <= 2 and read._cached_tokens <= 300


def test_replicas_share_the_rows_and_keep_to_the_budget() -> None:
    lengths = np.array([9, 1, 8, 2, 7, 3, 30, 5, 5])
    everyone = np.arange(100, 109)
    parts = [split_over_dp(everyone, lengths, BatchSharding(replica, 2, 12)) for replica in range(2)]
    assert sorted(row for replica in parts for part in replica for row in part.tolist()) == everyone.tolist()
    for part in (part for replica in parts for part in replica):
        assert len(part) == 1 or lengths[part - 100].sum() <= 12
    loads = [sum(int(lengths[part - 100].sum()) for part in replica) for replica in parts]
    assert max(loads) - min(loads) <= 30 - 1
    assert [part.tolist() for part in split_over_dp(everyone[:1], lengths[:1], BatchSharding(1, 2, 12))] == [[]]


def test_the_shift_by_one() -> None:
    row = {"input_ids": np.array([5, 6, 7]), "loss_mask": np.array([1, 0, 1], np.int8)}
    other = {"input_ids": np.array([8, 9]), "loss_mask": np.array([0, 1], np.int8)}
    batch = assemble(SFT, [row, other], multiple=4)
    assert batch.tokens_1t.tolist() == [[5, 6, 8, 0]] and batch.labels_1t.tolist() == [[6, 7, 9, 0]]
    assert batch.lengths == (2, 1, 1) and batch.num_read == 3
    span = batch.spans["input_ids"]
    assert span.row_T.tolist() == [0, 0, 1] and batch.rows["loss_mask"].tolist() == [0, 1, 1]


def test_scored_sequences_are_read_whole() -> None:
    pair = {"chosen_ids": np.array([1, 2, 3]), "rejected_ids": np.array([4, 5])}
    batch = assemble(RM, [pair, {"chosen_ids": np.array([6]), "rejected_ids": np.array([7, 8])}])
    assert batch.tokens_1t.tolist() == [[1, 2, 3, 6, 4, 5, 7, 8]] and batch.lengths == (3, 1, 2, 2)
    assert batch.spans["chosen_ids"].last_B.tolist() == [2, 3]
    assert batch.spans["rejected_ids"].last_B.tolist() == [5, 7]


def test_packs_shift_every_sequence_inside() -> None:
    pack = {
        "input_ids": np.array([1, 2, 3, 4, 5]),
        "loss_mask": np.ones(5, np.int8),
        "lengths": np.array([3, 2]),
    }
    batch = assemble(SFT, [pack])
    assert batch.tokens_1t.tolist() == [[1, 2, 4]] and batch.labels_1t.tolist() == [[2, 3, 5]]
    assert batch.lengths == (2, 1) and batch.spans["input_ids"].row_T.tolist() == [0, 0, 1]


def made(sequences: list[list[int]], masks: list[list[int]]) -> pa.Table:
    columns = {
        "sample_id": [f"r{i}" for i in range(len(sequences))],
        "input_ids": sequences,
        "loss_mask": masks,
        "source": pa.nulls(len(sequences), pa.string()),
    }
    return pa.table(columns, schema=TOKENS.arrow)


def test_rows_that_cannot_be_trained_on_are_all_named(tmp_path: Path) -> None:
    good = [1, 2, 3]
    sequences = [good, [1] * 50, good, [1, 60], [1], good, good, good]
    masks = [[0, 1, 1], [1] * 50, [1, 0, 0], [1, 1], [1], [1, 1], [0, 1, 2], [0, 1, -1]]
    with pytest.raises(DataError) as caught:
        source(tmp_path, made(sequences, masks))
    message = caught.value.what
    assert caught.value.code == 10
    for fault in (
        "loss_mask is not as long as input_ids: 1 row, first r5",
        "input_ids holds ids outside the vocabulary of 60: 1 row, first r3",
        "input_ids is longer than the 48 tokens the model can take: 1 row, first r1",
        "input_ids has fewer than 2 tokens: 1 row, first r4",
        "loss_mask counts no token that can be predicted: 2 rows, first r2, r4",
        "loss_mask holds other numbers than 0 and 1: 2 rows, first r6, r7",
    ):
        assert fault in message, message


def test_columns_that_run_along_are_whole_and_as_wide_as_their_ids(tmp_path: Path) -> None:
    """What is broadcast, or filled in, would be learnt without a word."""

    def fault_of(column: str, change: Callable[[list[list[Any]], int], None], *, shards: int = 1) -> str:
        table = toys.rows_for(KD, 6)
        values = table[column].to_pylist()
        for number, row in enumerate(values):
            change(row, number)
        at = table.column_names.index(column)
        changed = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
        parts = [changed.slice(start, 6 // shards) for start in range(0, 6, 6 // shards)]
        with pytest.raises(DataError) as caught:
            TokenDataset(toys.put(tmp_path / f"kd-{len(list(tmp_path.iterdir()))}", KD.rows, *parts), KD, LIMITS)
        return caught.value.what

    def narrow(row: list[list[Any]], number: int) -> None:
        row[:] = [entries[:1] for entries in row]

    def narrow_late(row: list[list[Any]], number: int) -> None:
        row[:] = [entries[:2] for entries in row] if number >= 3 else row

    def emptied(row: list[list[Any]], number: int) -> None:
        row[2] = [row[2][0], None, row[2][2]] if number == 4 else row[2]

    def infinite(row: list[list[Any]], number: int) -> None:
        row[1] = [row[1][0], float("-inf"), float("nan")] if number in (1, 4) else row[1]

    assert fault_of("teacher_ids", narrow) == "teacher_logprobs holds 3 entries per token where teacher_ids holds 1"
    assert fault_of("teacher_logprobs", narrow).endswith("holds 1 entries per token where teacher_ids holds 3")
    assert fault_of("teacher_logprobs", narrow_late, shards=2).endswith(
        "holds 2 entries per token where teacher_ids holds 3"
    )
    assert fault_of("teacher_ids", emptied) == "teacher_ids holds nulls among its entries"
    assert fault_of("teacher_logprobs", emptied) == "teacher_logprobs holds nulls among its entries"
    assert "teacher_logprobs holds a number that is not finite: 2 rows" in fault_of("teacher_logprobs", infinite)


def test_the_longest_row_that_fits(tmp_path: Path) -> None:
    read = source(tmp_path, made([[1] * 49], [[1] * 49]))
    assert assemble(SFT, read.rows([0])).num_read == 48


def test_packs_are_looked_into(tmp_path: Path) -> None:
    table = toys.packed(toys.tokens(6), (3, 3))
    broken = table.set_column(3, table.schema.field(3), pa.array([[1, 2], [3]], pa.list_(pa.int32())))
    with pytest.raises(DataError, match="lengths do not add up to input_ids: 2 rows, first k0, k1"):
        TokenDataset(toys.put(tmp_path / "packs", PACKS, broken), SFT, LIMITS)


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows") as fault:
        source(tmp_path, TOKENS.empty())
    assert fault.value.next.startswith(f"quiver show {tmp_path}"), "not every row that is elsewhere was rejected"
    with pytest.raises(DataError, match="cannot read rows of kind tokens"):
        TokenDataset(Dataset.open(str(tmp_path / "rows")), RM, LIMITS)
