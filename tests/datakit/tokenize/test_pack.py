"""tokenize.pack on the conformance suite; what it does by hand stands in test_ops.py."""

from __future__ import annotations

from datakit.op import Context
from datakit.tokenize import Pack
from schemas import TOKENS
from tests.datakit.fakes import Example

EXAMPLES = [Example(Pack(capacity=7), (TOKENS.example(12),))]


def test_the_example_packs_two_rows_of_three_tokens():
    rows = Pack(capacity=7).gather(TOKENS.example(12), Context()).rows
    assert rows["lengths"].to_pylist() == [[3, 3]] * 6


def test_packs_tell_where_each_sequence_came_from():
    tokens = TOKENS.example(12)
    op = Pack(capacity=7)
    rows = op.gather(tokens, Context()).rows
    sources = dict(zip(tokens["sample_id"].to_pylist(), tokens["source"].to_pylist(), strict=True))
    for ids, given in zip(rows["sample_ids"].to_pylist(), rows["sources"].to_pylist(), strict=True):
        assert given == [sources[name] for name in ids]
    assert "sources" in op.gives(TOKENS) and "sources" not in op.gives(TOKENS.dropping("source"))
