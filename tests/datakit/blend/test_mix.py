"""blend.mix: exact counts, passes and choices, order, marks, and what is refused."""

from __future__ import annotations

import math
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datakit.apply import apply
from datakit.blend import Mix
from datakit.columns import interleave
from datakit.columns.apportion import largest_remainder, largest_total, of_epochs
from datakit.op import Context
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example, scored

EXAMPLES = [Example(Mix(sources=("a", "b"), weights=(0.7, 0.3)), (scored(), scored(6)))]


def rows(name, count, tokens=None, **more):
    columns = {
        "id": pa.array([f"{name}{i}" for i in range(count)], pa.string()),
        "tokens": pa.array(tokens or [1] * count, pa.int64()),
    }
    return pa.table({**columns, **more})


def mixed(op, inputs, seed=0):
    return pa.concat_tables([result.rows for result in op.blend(inputs, Context(seed=seed))])


def test_largest_remainder_by_hand():
    assert largest_remainder((0.5, 0.3, 0.2), 7) == [4, 2, 1]  # 3.5, 2.1, 1.4: the one left over goes to .5
    assert largest_remainder((1, 1, 1), 2) == [1, 1, 0]  # ties to the earlier
    assert largest_remainder((0.1, 0.2, 0.7), 10) == [1, 2, 7]  # decimals, not floats
    assert largest_total((0.1, 0.9), (10, 1000), 1.0) == 100
    assert of_epochs(1.5, 3) == 5


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), st.integers(0, 10**9))
def test_counts_are_exact(weights, total):
    counts = largest_remainder(weights, total)
    assert sum(counts) == total
    assert all(abs(c - total * w / sum(weights)) < 1 + 1e-6 * total for c, w in zip(counts, weights, strict=True))


def test_weights_with_a_total(put, tmp_path):
    inputs = [put(rows("m", 10), (4,)), put(rows("c", 10))]
    out = apply(Mix(sources=("math", "chat"), weights=(0.7, 0.3), total=10), inputs, str(tmp_path / "o"), seed=3)
    table = out.read()
    assert Counter(table["source"].to_pylist()) == {"math": 7, "chat": 3}
    assert len(set(table["id"].to_pylist())) == 10, "no repeats within a pass"
    assert set(table["epoch"].to_pylist()) == {0}
    counts = out.stats["counts"]
    assert [counts[f"{what}.math"] for what in ("rows", "units", "epochs")] == [7, 7, 0.7]
    assert [counts[f"{what}.chat"] for what in ("rows", "units", "epochs")] == [3, 3, 0.3]
    assert out.schema.key == ()


def test_rows_are_laid_into_each_other_evenly(put):
    inputs = [put(rows("m", 4)), put(rows("c", 2))]
    table = mixed(Mix(sources=("m", "c"), epochs=(1.0, 1.0)), inputs)
    assert table["id"].to_pylist() == ["m0", "c0", "m1", "m2", "c1", "m3"]
    table = mixed(Mix(sources=("m", "c"), epochs=(1.0, 1.0), order="concatenated"), inputs)
    assert table["id"].to_pylist() == ["m0", "m1", "m2", "m3", "c0", "c1"]


@pytest.mark.parametrize("order", ["interleaved", "concatenated"])
def test_a_partial_column_is_null_where_a_source_lacks_it(put, tmp_path, order):
    inputs = [put(rows("m", 4, reason=pa.array(["stop", None, "length", "stop"]))), put(rows("c", 2))]
    given = {"sources": ("m", "c"), "epochs": (1.0, 1.0), "order": order}
    table = apply(Mix(**given, partial=("reason", "nobody")), inputs, str(tmp_path / "o")).read()
    assert table.column_names == ["id", "tokens", "reason", "source", "epoch"]
    known = dict(zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True))
    assert known == {"m0": "stop", "m1": None, "m2": "length", "m3": "stop", "c0": None, "c1": None}
    assert "reason" not in apply(Mix(**given), inputs, str(tmp_path / "p")).schema
    assert "partial" not in Mix(**given).params(), "keys of mixtures that were there before stay"
    clash = [inputs[0], put(rows("c", 2, reason=pa.array([1, 2])))]
    with pytest.raises(ConfigError, match="cannot mix reason, which is m: string, c: int64"):
        mixed(Mix(**given, partial=("reason",)), clash)


def test_passes_repeat_whole_and_the_rest_is_chosen(put):
    table = mixed(Mix(sources=("m",), epochs=(2.5,)), [put(rows("m", 4), (1,))])
    assert table["epoch"].to_pylist() == [0] * 4 + [1] * 4 + [2] * 2
    assert table["id"].to_pylist()[:8] == ["m0", "m1", "m2", "m3"] * 2
    assert len(set(table["id"].to_pylist()[8:])) == 2


def test_a_larger_mixture_holds_the_smaller(put):
    inputs = [put(rows("m", 50)), put(rows("c", 50))]

    def ids(total):
        return set(mixed(Mix(sources=("m", "c"), weights=(1.0, 1.0), total=total), inputs)["id"].to_pylist())

    assert ids(20) < ids(40) < ids(100)
    op = Mix(sources=("m", "c"), weights=(1.0, 1.0), total=20)
    assert set(mixed(op, inputs, seed=1)["id"].to_pylist()) != ids(20)


def test_without_a_total_the_smallest_source_is_used_up(put):
    table = mixed(Mix(sources=("m", "c"), weights=(0.75, 0.25)), [put(rows("m", 9)), put(rows("c", 100))])
    assert Counter(table["source"].to_pylist()) == {"m": 9, "c": 3}


def test_tokens_are_weighed(put):
    inputs = [put(rows("long", 10, [100] * 10)), put(rows("short", 100, [10] * 100))]
    op = Mix(sources=("long", "short"), weights=(0.5, 0.5), total=1000, by="tokens", length="tokens")
    table = mixed(op, inputs)
    assert Counter(table["source"].to_pylist()) == {"long": 5, "short": 50}
    inexact = Mix(sources=("long", "short"), weights=(0.5, 0.5), total=1100, by="tokens", length="tokens")
    sums = Counter()
    for row in mixed(inexact, inputs).to_pylist():
        sums[row["source"]] += row["tokens"]
    assert sums == {"long": 600, "short": 550}, "a target is passed by less than one row"


def test_lengths_of_lists_count_as_tokens(put):
    ids = pa.array([[1, 2, 3], [1]], pa.list_(pa.int32()))
    table = mixed(
        Mix(sources=("a",), epochs=(1.0,), by="tokens", length="ids"),
        [put(pa.table({"id": ["x", "y"], "ids": ids}))],
    )
    assert table.num_rows == 2


def test_columns_that_all_have(put):
    inputs = [put(rows("m", 1, answer=["7"])), put(rows("c", 1, judge=["x"]))]
    op = Mix(sources=("m", "c"), epochs=(1.0, 1.0))
    assert op.gives(*(i.schema for i in inputs)).names == ("id", "tokens", "source", "epoch")
    op = Mix(sources=("m", "c"), epochs=(1.0, 1.0), columns=("id",))
    assert mixed(op, inputs).column_names == ["id", "source", "epoch"]
    with pytest.raises(ConfigError, match="answer"):
        Mix(sources=("m", "c"), epochs=(1.0, 1.0), columns=("answer",)).gives(*(i.schema for i in inputs))
    other = put(pa.table({"id": [1]}))
    with pytest.raises(ConfigError, match="cannot mix id, which is m: string, c: int64"):
        Mix(sources=("m", "c"), epochs=(1.0, 1.0)).gives(inputs[0].schema, other.schema)


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ({"weights": (1.0,)}, "1 numbers for 2 sources"),
        ({"weights": (1.0, 0.0)}, "b has 0.0"),
        ({"weights": (1.0, -1.0)}, "b has -1.0"),
        ({"weights": (math.nan, 1.0)}, "a has nan"),
        ({"weights": (math.inf, 1.0)}, "a has inf"),
        ({}, "exactly one of weights and epochs"),
        ({"weights": (1.0, 1.0), "epochs": (1.0, 1.0)}, "exactly one of weights and epochs"),
        ({"epochs": (1.0, 1.0), "total": 5}, "total 5 needs weights"),
        ({"weights": (1.0, 1.0), "by": "tokens"}, "length names the column"),
        ({"weights": (1.0, 1.0), "max_epochs": 0.0}, "max_epochs"),
    ],
)
def test_settings_are_checked(bad, fault):
    with pytest.raises(ConfigError, match=fault):
        Mix(sources=("a", "b"), **bad)


def test_empty_and_small_sources_are_refused(put):
    full, empty = put(rows("m", 10)), put(rows("c", 0))
    op = Mix(sources=("m", "c"), weights=(0.5, 0.5), total=30)
    with pytest.raises(DataError, match="c has no rows"):
        mixed(op, [full, empty])
    with pytest.raises(DataError, match="15 of 10 rows") as caught:
        mixed(op, [full, full])
    assert "total=20 fits" in caught.value.render()
    more = Mix(sources=("m", "c"), weights=(0.5, 0.5), total=30, max_epochs=1.5)
    assert Counter(mixed(more, [full, full])["source"].to_pylist()) == {"m": 15, "c": 15}


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 40)), min_size=1, max_size=4), st.integers(1, 9))
def test_blocks_change_nothing(put, sizes, block):
    inputs = [put(rows(f"s{i}", size), (size // 2,)) for i, (size, _) in enumerate(sizes)]
    epochs = tuple(max(quota, 1) / 10 for _, quota in sizes)
    op = Mix(sources=tuple(f"s{i}" for i in range(len(sizes))), epochs=epochs)
    whole = mixed(op, inputs)
    before, interleave._BLOCK_ROWS = interleave._BLOCK_ROWS, block
    try:
        assert mixed(op, inputs).equals(whole)
    finally:
        interleave._BLOCK_ROWS = before
    expected = [of_epochs(e, size) for e, (size, _) in zip(epochs, sizes, strict=True)]
    counts = Counter(whole["source"].to_pylist())
    assert [counts[f"s{i}"] for i in range(len(sizes))] == expected


def test_what_a_mixture_leaves_out_is_noted(put, tmp_path):
    op = Mix(sources=("a", "b"), weights=(0.5, 0.5))
    made = apply(op, [put(scored(10)), put(scored(4))], str(tmp_path / "out"))
    assert op.notes(made.manifest) == ("a gives 12 of its 30 rows: 18 left out",)
