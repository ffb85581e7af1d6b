"""filter.dedup_exact: the first of equal rows stays, the others name it."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datakit.apply import apply
from datakit.filter import DedupExact, dedup_exact
from datakit.op import Context
from schemas import MESSAGES, Column, Schema
from schemas.errors import ConfigError
from tests.datakit.fakes import Example, scored

EXAMPLES = [Example(DedupExact(columns=("reward",)), (scored(),))]

SCHEMA = Schema(
    "answers",
    1,
    (Column("id", pa.string(), ""), Column("x", pa.string(), "", nullable=True), Column("y", pa.int64(), "")),
    key=("id",),
)


def table(pairs):
    ids, xs, ys = [f"r{i}" for i in range(len(pairs))], [x for x, _ in pairs], [y for _, y in pairs]
    return pa.table({"id": ids, "x": xs, "y": ys}, schema=SCHEMA.arrow)


def test_by_hand(put, tmp_path):
    rows = table([("a", 1), ("b", 1), ("a", 2), ("a", 1), (None, 1), (None, 1), ("", 1), ("b", 1), ("a", 1)])
    out = apply(DedupExact(columns=("x", "y")), put(rows, (2, 5), SCHEMA), str(tmp_path / "o"))
    assert out.read()["id"].to_pylist() == ["r0", "r1", "r2", "r4", "r6"]
    rejected = out.read_rejected().select(["id", "reason", "threshold"]).to_pylist()
    assert [tuple(row.values()) for row in rejected] == [
        ("r3", "duplicate", "r0"),
        ("r5", "duplicate", "r4"),
        ("r7", "duplicate", "r1"),
        ("r8", "duplicate", "r0"),
    ]


def test_conversations_are_compared_and_rows_without_a_key_are_numbered(put, tmp_path):
    chats = [[{"role": "user", "content": text}] for text in ("hi", "ho", "hi")]
    out = apply(DedupExact(columns=("m",)), put(pa.table({"m": pa.array(chats, MESSAGES)})), str(tmp_path / "o"))
    assert out.num_rows == 2
    assert out.read_rejected()["threshold"].to_pylist() == ["0"]


@settings(max_examples=12)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 2)), max_size=30), st.integers(1, 7))
def test_against_plain_python(put, pairs, batch):
    before, dedup_exact._BATCH_ROWS = dedup_exact._BATCH_ROWS, batch
    try:
        results = list(
            DedupExact(columns=("x", "y")).gather_all(put(table(pairs), (len(pairs) // 3,), SCHEMA), Context())
        )
    finally:
        dedup_exact._BATCH_ROWS = before
    kept = [i for result in results for i in result.rows["id"].to_pylist()]
    aside = [i for result in results for i in result.rejected["id"].to_pylist()]
    first = dict(reversed([(pair, f"r{i}") for i, pair in enumerate(pairs)]))
    assert kept == sorted(first.values(), key=lambda name: int(name[1:]))
    assert sorted(kept + aside) == sorted(f"r{i}" for i in range(len(pairs)))


def test_settings_are_checked():
    with pytest.raises(ConfigError):
        DedupExact(columns=())
    with pytest.raises(ConfigError, match="did you mean x"):
        DedupExact(columns=("xx",)).gives(SCHEMA)
