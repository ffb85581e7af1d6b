"""What `keep` carries along of files that have types, and of cells that have none: each value as it is, or by name."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.io import Csv, Parquet
from datakit.op import Context
from schemas.errors import DataError

DAY, NOON = dt.date(2024, 1, 1), dt.datetime(2024, 1, 1, 12)
COLUMNS = {
    "day": (pa.array([DAY, None]), "2024-01-01", "string"),
    "at": (pa.array([NOON, None], pa.timestamp("s")), "2024-01-01 12:00:00.000", "string"),
    "zoned": (pa.array([NOON, None], pa.timestamp("s", "UTC")), "2024-01-01 12:00:00.000Z", "string"),
    "clock": (pa.array([dt.time(1, 2, 3), None], pa.time32("s")), "01:02:03.000", "string"),
    "unsigned": (pa.array([7, None], pa.uint64()), 7, "int64"),
    "short": (pa.array([-7, None], pa.int16()), -7, "int64"),
    "single": (pa.array([0.5, None], pa.float32()), 0.5, "double"),
    "flag": (pa.array([True, None]), True, "bool"),
    "large": (pa.array(["x", None], pa.large_string()), "x", "string"),
    "words": (pa.array(["x", None]).dictionary_encode(), "x", "string"),
    "days": (pa.array([[DAY], None]), '["2024-01-01"]', "string"),
    "meta": (pa.array([{"n": 1, "day": DAY}, None]), '{"day":"2024-01-01","n":1}', "string"),
}
"""Column, its first value in the rows, and its type there. Parquet has no seconds: they come back as milliseconds."""


def parquet(folder: Path, **columns: pa.Array) -> str:
    place = folder / "a.parquet"
    pq.write_table(pa.table({"prompt": ["a", "b"], **columns}), place)
    return str(place)


def rows(op: Csv | Parquet) -> list[dict]:
    return [row for result in op.read(Context()) for row in result.rows.to_pylist()]


def test_every_type_is_carried_as_what_it_is(tmp_path: Path) -> None:
    place = parquet(tmp_path, **{name: column for name, (column, _, _) in COLUMNS.items()})
    op = Parquet(files=(place,), format="prompts", keep=(*COLUMNS, "meta.day"))
    first, second = rows(op)
    assert {name: first[name] for name in COLUMNS} == {name: value for name, (_, value, _) in COLUMNS.items()}
    assert first["meta_day"] == "2024-01-01"
    assert {second[name] for name in COLUMNS} == {None}
    gives = op.gives()
    assert {name: str(gives[name].type) for name in COLUMNS} == {name: kind for name, (*_, kind) in COLUMNS.items()}


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"\xff", None]),
        pa.array([[b"x"], None]),
        pa.array([{"raw": b"x"}, None]),
        pa.array([1 << 63, None], pa.uint64()),
        pa.array([dt.timedelta(1), None]),
        pa.array(["1.50", None]).cast(pa.decimal128(5, 2)),
    ],
    ids=lambda column: str(column.type),
)
def test_what_no_column_can_carry_is_refused_by_name(column: pa.Array, tmp_path: Path) -> None:
    place = parquet(tmp_path, raw=column, day=pa.array([DAY, None]))
    op = Parquet(files=(place,), format="prompts", keep=("raw",))
    with pytest.raises(DataError, match="raw of") as caught:
        op.pinned()
    assert caught.value.slug == "column-type"
    assert [row["day"] for row in rows(Parquet(files=(place,), format="prompts", keep=("day",)))] == [
        "2024-01-01",
        None,
    ]


def test_beside_a_value_that_cannot_be_carried_another_one_can(tmp_path: Path) -> None:
    place = parquet(tmp_path, meta=pa.array([{"raw": b"x", "n": 3}, {"raw": b"y", "n": 4}]))
    assert [row["meta_n"] for row in rows(Parquet(files=(place,), format="prompts", keep=("meta.n",)))] == [3, 4]


def test_moments_that_python_cannot_hold_are_carried_as_texts(tmp_path: Path) -> None:
    far = pa.array([3_000_000, 1], pa.int32()).cast(pa.date32())
    zoned = pa.array([1, None], pa.int64()).cast(pa.timestamp("us", "Mars/X"))
    place = parquet(tmp_path, far=far, zoned=zoned, both=pa.StructArray.from_arrays([far, zoned], ["far", "zoned"]))
    op = Parquet(files=(place,), format="prompts", keep=("far", "zoned", "both", "both.far"))
    first, second = rows(op)
    assert [first[name] for name in ("far", "zoned", "both_far")] == [
        "10183-09-21", "1970-01-01 00:00:00.000001+00:00", "10183-09-21"
    ]  # fmt: skip
    assert first["both"] == '{"far":"10183-09-21","zoned":"1970-01-01 00:00:00.000001+00:00"}'
    assert (second["far"], second["zoned"]) == ("1970-01-02", None)


def test_cells_are_carried_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,id,name\nhi,007,"bob, ""b"""\nho,8,\n', encoding="utf-8")
    op = Csv(files=(str(tmp_path / "a.csv"),), format="prompts", keep=("id", "name"))
    assert [(row["id"], row["name"]) for row in rows(op)] == [("007", 'bob, "b"'), ("8", None)]
