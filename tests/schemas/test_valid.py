"""Text that is no UTF-8, wherever Arrow keeps text: refused when rows are written and when they are read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.io import Parquet
from datakit.op import Context
from schemas import Column, Dataset, Schema
from schemas.errors import DataError
from schemas.manifest import File, Manifest
from schemas.valid import require_valid

GOOD = ["zero", "one", "two", "three"]


TEXT, LARGE = pa.string(), pa.large_string()


def texts(kind: pa.DataType = TEXT) -> pa.Array:
    """Four texts; the third is no UTF-8."""
    data = [b"zero", b"one", b"t\xff\xfeo", b"three"]
    return pa.array(data, pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()).view(kind)


def lists(values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, 0, 3, 4], pa.int32()), values)


def dictionary(values: pa.Array) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([3, 0, 2], pa.int32()), values)


def turns(values: pa.Array) -> pa.Array:
    return lists(pa.StructArray.from_arrays([pa.array(["user"] * 4), values], ["who", "text"]))


PLACES: dict[str, tuple[Callable[[pa.Array], pa.Array], int]] = {
    "text": (lambda values: values, 2),
    "list": (lists, 1),
    "struct": (lambda values: pa.StructArray.from_arrays([values], ["part"]), 2),
    "turns": (turns, 1),
    "map": (lambda values: pa.MapArray.from_arrays(pa.array([0, 1, 4], pa.int32()), pa.array(GOOD), values), 1),
    "dictionary": (dictionary, 2),
}
"""Where the texts stand, and the row of the third."""


STORED = [place for place in PLACES if place not in ("map", "dictionary")]
"""Types of columns that datasets hold."""


@pytest.mark.parametrize("place", STORED)
@pytest.mark.parametrize("kind", [TEXT, LARGE], ids=str)
def test_no_door_writes_it(place: str, kind: pa.DataType, tmp_path: Path) -> None:
    column, row = PLACES[place][0](texts(kind)), PLACES[place][1]
    rows = pa.table({"n": range(len(column)), "x": column})
    kinds = Schema("rows", 1, (Column("n", pa.int64(), ""), Column("x", column.type, "")))
    with pytest.raises(DataError, match=rf"column x holds text that is no UTF-8, first in row {row}\b") as caught:
        Dataset.from_arrow(rows, kinds, str(tmp_path / "x"))
    assert caught.value.slug == "bad-text" and not (tmp_path / "x").exists()
    sound = rows.slice(0, row)
    assert Dataset.from_arrow(sound, kinds, str(tmp_path / "y")).read().num_rows == row


def with_bytes(tmp_path: Path, column: pa.Array) -> Dataset:
    """A dataset that somebody else wrote: shard and manifest fit each other."""
    url, path = tmp_path / "x", tmp_path / "x" / "part-00000.parquet"
    url.mkdir()
    kinds = Schema("rows", 1, (Column("n", pa.int64(), ""), Column("x", column.type, "")))
    pq.write_table(pa.Table.from_arrays([pa.array(range(len(column))), column], schema=kinds.arrow), path)
    data = path.read_bytes()
    file = File(path.name, len(column), len(data), hashlib.sha256(data).hexdigest())
    (url / "_manifest.json").write_bytes(Manifest(schema=kinds, files=(file,)).to_bytes())
    return Dataset.open(str(url))


@pytest.mark.parametrize("place", STORED)
def test_no_door_reads_it(place: str, tmp_path: Path) -> None:
    dataset = with_bytes(tmp_path, PLACES[place][0](texts()))
    doors: list[Callable[[], object]] = [
        dataset.read, dataset.arrow, dataset.polars, dataset.head, dataset.check, lambda: dataset.first(4),
        lambda: list(dataset.batches(0, 2)), lambda: dataset.polars(lazy=True).collect(),
    ]  # fmt: skip
    for door in doors:
        with pytest.raises((DataError, pl.exceptions.ComputeError), match="bad-text"):
            door()
    with pytest.raises(duckdb.Error, match="UTF"):
        dataset.sql("SELECT x FROM self").fetchall()
    assert re.search(r"error\[10/bad-text\].*column x", dataset._repr_html_(), re.DOTALL)
    assert dataset.read(["n"]).num_rows == len(dataset.read(["n"])) > 0


def test_an_outside_file_names_the_column(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": GOOD, "response": texts()}), path)
    with pytest.raises(DataError, match="column response, rows from 1: Invalid UTF8"):
        list(Parquet(files=(str(path),), format="completions").read(Context()))


@pytest.mark.parametrize("place", PLACES)
def test_every_place_is_looked_at(place: str, tmp_path: Path) -> None:
    column, row = PLACES[place][0](texts()), PLACES[place][1]
    with pytest.raises(DataError, match=rf"first in row {row}\b"):
        require_valid(pa.table({"x": pa.chunked_array([column.slice(0, 1), column.slice(1)])}), "here")
    kinds = Schema("rows", 1, (Column("x", pa.string(), ""),))
    if place == "dictionary":
        with pytest.raises(DataError, match="bad-text"):
            Dataset.from_arrow(pa.table({"x": column}), kinds, str(tmp_path / "x"))


def test_damaged_indices_are_named_and_sound_tables_pass() -> None:
    broken = pa.DictionaryArray.from_arrays(pa.array([0, 7], pa.int32()), pa.array(["a"]), safe=False)
    with pytest.raises(DataError, match="bad-values"):
        require_valid(pa.table({"x": broken}), "here")
    require_valid(pa.table({"x": GOOD, "y": pa.array(GOOD).dictionary_encode(), "z": pa.array(["t"] * 4)}), "here")


def test_a_slice_is_looked_at_and_not_what_it_was_cut_from() -> None:
    column = turns(texts())
    require_valid(pa.table({"x": column.slice(2)}), "here")
    require_valid(pa.table({"x": lists(texts()).slice(0, 1)}), "here")
    with pytest.raises(DataError, match="first in row 0"):
        require_valid(pa.table({"x": column.slice(1)}), "here")


TIMES = pa.timestamp("us", "Europe/Berlin")
TABLES: dict[str, tuple[object, pa.DataType]] = {
    "no-table": ({"x": ["a"]}, TEXT),
    "unknown-columns": (pa.table({"y": ["a"]}), TEXT),
    "schema": (pa.table([pa.array(["a"]), pa.array(["b"])], names=["x", "x"]), TEXT),
    "column-type": (pa.table({"x": pa.array([[("a", "b")]], pa.map_(TEXT, TEXT))}), pa.map_(TEXT, TEXT)),
}


@pytest.mark.parametrize("slug", TABLES)
def test_what_is_no_table_of_the_schema_has_a_name(slug: str, tmp_path: Path) -> None:
    rows, kind = TABLES[slug]
    with pytest.raises(DataError) as caught:
        Dataset.from_arrow(rows, Schema("rows", 1, (Column("x", kind, ""),)), str(tmp_path / "x"))
    assert caught.value.slug == slug and not list(tmp_path.rglob("*.parquet"))
    with pytest.raises(DataError, match="Berlin"):
        Dataset.from_arrow(
            pa.table({"x": pa.array([1], TIMES)}), Schema("r", 1, (Column("x", TIMES, ""),)), str(tmp_path / "y")
        )


def test_two_columns_of_one_name_in_an_outside_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([pa.array(["a"])] * 3, names=["prompt", "prompt", "response"]), path)
    with pytest.raises(DataError, match="two columns are called prompt"):
        list(Parquet(files=(str(path),), format="completions").read(Context()))
