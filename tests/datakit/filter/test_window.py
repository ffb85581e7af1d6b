"""filter.window: runs of rows, rings, and windows that are not there."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.apply import apply
from datakit.filter import Window
from datakit.op import Context
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example, scored

EXAMPLES = [Example(Window(offset=3, limit=5), (scored(),))]


def window(dataset, **settings):
    parts = [result.rows for result in Window(**settings).gather_all(dataset, Context())]
    return pa.concat_tables(parts)["n"].to_pylist()


@given(st.integers(0, 25), st.integers(1, 10), st.booleans())
def test_against_plain_python(put, offset, limit, wrap):
    dataset = ten(put)
    numbers = list(range(10))
    if wrap:
        assert window(dataset, offset=offset, limit=limit, wrap=True) == [(offset + i) % 10 for i in range(limit)]
    elif offset < 10:
        assert window(dataset, offset=offset, limit=limit) == numbers[offset : offset + limit]
    else:
        with pytest.raises(DataError, match="of 10"):
            window(dataset, offset=offset, limit=limit)


def ten(put, made=[]):  # noqa: B006 - one dataset for all examples
    if not made:
        made.append(put(pa.table({"n": list(range(10))}), (3, 3, 7)))
    return made[0]


def test_rows_outside_are_counted(put, tmp_path):
    out = apply(Window(offset=8, limit=4, wrap=True), ten(put), str(tmp_path / "o"))
    assert (out.read()["n"].to_pylist(), out.stats["counts"]) == ([8, 9, 0, 1], {"rows.outside": 6})


def test_a_ring_is_never_longer_than_its_dataset(put):
    with pytest.raises(DataError, match="limit of at most 10") as caught:
        window(ten(put), limit=11, wrap=True)
    assert caught.value.next == "limit=10 takes them all"
    with pytest.raises(DataError):
        window(put(pa.table({"n": pa.array([], pa.int64())})), limit=1, wrap=True)
    with pytest.raises(ConfigError):
        Window(limit=0)
