"""blend.shuffle: a permutation, the same whatever the shards and buckets; and the keys that it sorts by."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from itertools import islice, permutations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datakit.apply import apply
from datakit.blend import Shuffle
from datakit.blend.shuffle import permuted
from datakit.columns.seeded import row_keys, smallest, text_keys
from schemas.errors import ConfigError


def numbered(count):
    return pa.table({"id": [f"{i}" for i in range(count)], "prompt_id": [f"p{i // 3}" for i in range(count)]})


def test_the_cut_into_shards_does_not_matter(put, tmp_path):
    rows = numbered(100)
    outs = [
        apply(Shuffle(), put(rows, cuts), str(tmp_path / f"{len(cuts)}"), seed=1) for cuts in [(), (7,), (1, 2, 60)]
    ]
    ids = outs[0].read()["id"].to_pylist()
    assert sorted(ids, key=int) == rows["id"].to_pylist() != ids
    assert all(out.read().equals(outs[0].read()) for out in outs)
    other = apply(Shuffle(), put(rows), str(tmp_path / "other"), seed=2)
    assert other.read()["id"].to_pylist() != ids


def test_rows_that_stay_together(put, tmp_path):
    op = Shuffle(together="prompt_id")
    outs = [apply(op, put(numbered(30), cuts), str(tmp_path / f"{len(cuts)}")) for cuts in [(), (10, 11)]]
    ids = [int(i) for i in outs[0].read()["id"].to_pylist()]
    assert all(ids[i : i + 3] == [ids[i], ids[i] + 1, ids[i] + 2] for i in range(0, 30, 3))
    assert ids != sorted(ids)
    assert outs[0].read().equals(outs[1].read())
    with pytest.raises(ConfigError, match="nowhere"):
        Shuffle(together="nowhere").gives(outs[0].schema)


def nested(count):
    """Rows 3 i to 3 i + 2 are alike in every column but `id`; the last three are null."""
    turns = [[{"role": "user", "content": f'"{i // 3}", ['}] for i in range(count)]
    ids = [[i // 3, 1] for i in range(count)]
    floats = [[i / 4, math.nan, math.inf] for i in np.arange(count) // 3]
    columns = {"messages": turns, "input_ids": ids, "values": floats, "pair": [{"a": i, "b": None} for i, _ in ids]}
    nulls = {name: [*values[:-3], None, None, None] for name, values in columns.items()}
    return pa.table({"id": [str(i) for i in range(count)], **nulls})


@pytest.mark.parametrize("column", ["messages", "input_ids", "values", "pair"])
def test_nested_values_stay_together(put, tmp_path, column):
    outs = [
        apply(Shuffle(together=column), put(nested(30), cuts), str(tmp_path / f"{len(cuts)}")) for cuts in [(), (7,)]
    ]
    ids = [int(i) for i in outs[0].read()["id"].to_pylist()]
    assert all(ids[i : i + 3] == [ids[i], ids[i] + 1, ids[i] + 2] and ids[i] % 3 == 0 for i in range(0, 30, 3))
    assert ids != sorted(ids) and outs[1].read()["id"].to_pylist() == [str(i) for i in ids]


@settings(max_examples=20)
@given(st.integers(0, 300), st.integers(0, 5), st.integers(1, 50))
def test_buckets_and_batches_change_nothing(count, bits, batch):
    rows = numbered(count)

    def run(bits, batch):
        keyed = ((rows.slice(i, batch), row_keys(i, min(batch, count - i), 0)) for i in range(0, count, batch))
        parts = [result.rows for result in permuted(keyed, bits)]
        return pa.concat_tables(parts)["id"].to_pylist() if parts else []

    expected = [str(i) for i in np.argsort(row_keys(0, count, 0), kind="stable")]
    assert run(bits, batch) == expected


def test_all_orders_are_equally_likely():
    counts = Counter(tuple(np.argsort(row_keys(0, 3, seed)).tolist()) for seed in range(6000))
    assert set(counts) == set(permutations(range(3)))
    assert all(850 < count < 1150 for count in counts.values()), counts  # 1000 +- 5 standard deviations


def splitmix(state):
    """The generator of Steele, Lea and Flood (2014) in plain integers; its first number from 0 is known."""
    mask = 2**64 - 1
    while True:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        yield z ^ (z >> 31)


def test_row_keys_are_splitmix():
    assert next(splitmix(0)) == 0xE220A8397B1DCDAF
    origin = int.from_bytes(hashlib.sha256(b"7\x1fx").digest()[:8], "big")
    assert row_keys(0, 5, 7, "x").tolist() == list(islice(splitmix(origin), 5))
    assert row_keys(5, 3, 1).tolist() == row_keys(0, 8, 1).tolist()[5:]


def test_text_keys_are_halves_of_md5():
    texts = pa.chunked_array([["a", None, "a"], ["", "ä'"]])
    plain = ["\x1fa", "\x1e", "\x1fa", "\x1f", "\x1fä'"]
    expected = [int(hashlib.md5(f"7\x1fit's\x1f{text}".encode()).hexdigest()[:16], 16) for text in plain]
    assert text_keys(texts, 7, "it's").tolist() == expected


@given(st.integers(0, 50), st.integers(0, 50))
def test_smallest_chooses_exactly(count, chosen):
    assert smallest(row_keys(0, count, 1), chosen).sum() == min(count, chosen)


def test_an_empty_dataset(put, tmp_path):
    assert apply(Shuffle(), put(numbered(0)), str(tmp_path / "o")).num_rows == 0
