"""tokenize.encode on the conformance suite; what it does by hand stands in test_ops.py."""

from __future__ import annotations

from datakit.tokenize import Encode
from tests.datakit.fakes import Example, pieces, tokenizer

EXAMPLES = [
    Example(Encode(), (pieces(12),), tokenizer()),
    Example(Encode(max_length=19, overlong="truncate-left"), (pieces(12),), tokenizer()),
]


def test_the_examples_need_a_tokenizer():
    assert all(example.op.needs == tuple(example.resources) for example in EXAMPLES)
