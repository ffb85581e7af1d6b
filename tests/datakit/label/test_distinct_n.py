"""label.distinct_n against sets of strings."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datakit.label import DistinctN
from datakit.op import Context
from schemas.errors import ConfigError
from tests.datakit.fakes import Example, responses

EXAMPLES = [
    Example(DistinctN(), (responses("a b a b", "one", ""),)),
    Example(DistinctN(n=1, output="d"), (responses("A a b."),)),
]


def test_by_hand():
    rows = pa.table({"response": ["a b a b", "To be, or not to BE", "one", None, "x x x x x"]})
    shares = DistinctN().label(rows, Context())["response_distinct_2"].to_pylist()
    assert shares == [2 / 3, 4 / 5, None, None, 1 / 4]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=8).map(" ".join), max_size=6), st.integers(1, 4))
def test_against_sets(texts, n):
    shares = DistinctN(n=n, output="d").label(pa.table({"response": pa.array(texts, pa.string())}), Context())["d"]
    for text, share in zip(texts, shares.to_pylist(), strict=True):
        words = text.split()
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        assert share == (len(set(grams)) / len(grams) if grams else None)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="n 0"):
        DistinctN(n=0)
