"""Moments that Python cannot hold, as texts: against Arrow's and Python's own where those have one."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest

from datakit.columns.timestamps import as_texts, leaves, python_value, text, values

LAST = (1 << 63) - 1


def us(*numbers: int | None, zone: str | None = None) -> pa.Array:
    return pa.array(numbers, pa.int64()).cast(pa.timestamp("us", zone))


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        (pa.array([0, 3_000_000], pa.int32()).cast(pa.date32()), [dt.date(1970, 1, 1), "10183-09-21"]),
        (pa.array([2**31 - 1, 1 - 2**31], pa.int32()).cast(pa.date32()), ["infinity", "-infinity"]),
        (us(1, LAST - 1), [dt.datetime(1970, 1, 1, 0, 0, 0, 1), "294247-01-10 04:00:54.775806"]),
        (us(LAST, -LAST, None), ["infinity", "-infinity", None]),
        (us(1, zone="Mars/X"), ["1970-01-01 00:00:00.000001+00:00"]),
        (us(LAST - 1, LAST, zone="UTC"), ["294247-01-10 04:00:54.775806+00:00", "infinity"]),
        (pa.array([1], pa.int64()).cast(pa.timestamp("ns")), ["1970-01-01 00:00:00.000000001"]),
        (pa.array([1 << 62], pa.int64()).cast(pa.duration("s")), ["4611686018427387904 seconds"]),
        (pa.array([1], pa.int64()).cast(pa.time64("ns")), ["00:00:00.000000001"]),
    ],
)
def test_a_moment_is_pythons_or_a_text_inside_of_others_too(column: pa.Array, wanted: list) -> None:
    assert values(column, python_value) == wanted
    rows = pa.StructArray.from_arrays([column, pa.nulls(len(column))], ["at", "n"])
    lists = pa.ListArray.from_arrays(pa.array([0, 0, len(column)], pa.int32()), rows)
    assert values(lists, python_value) == [[], [{"at": one, "n": None} for one in wanted]]
    assert values(lists.slice(1), python_value) == values(lists, python_value)[1:]
    assert values(column.dictionary_encode(), python_value) == wanted
    assert [one for leaf in leaves(lists) for one in leaf if pa.types.is_temporal(leaf.type)] == [*column]


def test_maps_keep_their_pairs_and_plain_columns_their_values() -> None:
    kind = pa.map_(pa.string(), pa.date32())
    column = pa.array([[("a", dt.date(2024, 1, 1)), ("b", None)], None], kind)
    assert values(column, python_value) == column.to_pylist()
    assert values(pa.array([{"n": 1}, None]), python_value) == [{"n": 1}, None]


def test_texts_are_arrows_where_it_has_them() -> None:
    column = us(0, 253_402_300_800_000_000, zone="Europe/Berlin")
    assert [text(one) for one in column] == column.cast(pa.string()).to_pylist()
    assert as_texts(pa.chunked_array([column]), pa.string()).to_pylist() == column.cast(pa.string()).to_pylist()
    far = pa.chunked_array([us(0, LAST - 1, None)])
    assert as_texts(far, pa.string()).to_pylist() == [
        "1970-01-01 00:00:00.000000",
        "294247-01-10 04:00:54.775806",
        None,
    ]
