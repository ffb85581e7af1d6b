"""tokenize.mask on the conformance suite; what it does by hand stands in test_ops.py."""

from __future__ import annotations

from datakit.tokenize import Mask
from tests.datakit.fakes import Example, pieces, tokenizer

EXAMPLES = [Example(Mask(), (pieces(12),), tokenizer()), Example(Mask(append_eos=True), (pieces(12),), tokenizer())]


def test_the_examples_need_a_tokenizer():
    assert all(example.op.needs == tuple(example.resources) for example in EXAMPLES)
