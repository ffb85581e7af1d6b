"""A dataset in a notebook: what it looks like, and its rows as tables of other libraries."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from schemas import Column, Dataset, Schema
from schemas.dataset import Attempt
from schemas.errors import ConflictError, DataError, IntegrityError, QuiverError
from schemas.installed import program
from schemas.store.commit import read_manifest
from tests.faults.writers import ROWS, rows, write

BAD = '<script>alert("x")</script>\x1b[31m\u202e'


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three shards of forty rows, below a folder whose name DuckDB would take for a column."""
    url = str(tmp_path / "iter=3" / "scores")
    write(url)
    return Dataset.open(url)


def expected() -> list[dict[str, object]]:
    return [row for shard in range(3) for row in rows(shard).to_pylist()]


def test_a_dataset_is_what_schemas_offers() -> None:
    assert Dataset.__module__ == "schemas.dataset"


def test_every_library_sees_the_same_rows(dataset: Dataset) -> None:
    assert dataset.arrow().to_pylist() == expected()
    assert dataset.polars().to_dicts() == expected()
    assert dataset.polars(["reward"]).columns == ["reward"]
    assert dataset.polars(lazy=True).collect().equals(dataset.polars())
    here = dataset.duckdb()
    assert duckdb.sql("SELECT * FROM here").to_arrow_table().to_pylist() == expected()
    assert here.columns == ["sample_id", "reward"]


def test_the_head_opens_one_shard(dataset: Dataset) -> None:
    Path(dataset.paths()[1]).unlink()
    assert dataset.head(3).to_dicts() == expected()[:3]
    assert dataset.head(100).height == 40
    assert dataset.head(2, ["sample_id"]).to_dicts() == [{"sample_id": "s0-0"}, {"sample_id": "s0-1"}]
    assert dataset.polars(lazy=True).head(40).collect().height == 40
    with pytest.raises(IntegrityError, match="shard-missing"):
        dataset.polars(lazy=True).head(41).collect()


def test_a_lazy_scan_filters_and_selects_as_an_eager_one(dataset: Dataset) -> None:
    def query(frame: pl.DataFrame | pl.LazyFrame) -> pl.LazyFrame:
        return frame.lazy().filter(pl.col("reward") > 0.5).select("sample_id").head(30)

    assert query(dataset.polars(lazy=True)).collect().equals(query(dataset.polars()).collect())
    grouped = dataset.polars(lazy=True).group_by("reward").len().sort("reward").collect()
    assert grouped.equals(dataset.polars().group_by("reward").len().sort("reward"))


def test_sql_names_this_dataset_and_others(dataset: Dataset, tmp_path: Path) -> None:
    kept = Dataset.from_polars(dataset.polars().filter(pl.col("reward") > 1), ROWS, str(tmp_path / "kept"))
    first = dataset.sql("SELECT count(*) FROM self")
    joined = dataset.sql("SELECT count(*), min(reward) FROM self JOIN kept USING (sample_id, reward)", kept=kept)
    good = [row["reward"] for row in expected() if row["reward"] > 1]  # type: ignore[operator]
    assert first.fetchall() + joined.fetchall() == [(120,), (len(good), min(good))]


@pytest.mark.parametrize("kept_time", [False, True])
def test_a_relation_reads_the_rows_that_were_verified_or_none(
    kept_time: bool, dataset: Dataset, tmp_path: Path
) -> None:
    """Another file takes a shard's place between the call and the query: it has its size, and a time that was set."""
    here, there = dataset.duckdb(), dataset.sql("FROM self")
    path = Path(dataset.paths()[1])
    before = path.stat()
    assert len(here.fetchall()) == len(there.fetchall()) == 120
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    (tmp_path / "other").write_bytes(data)
    (tmp_path / "other").replace(path)
    if kept_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for query in (here, there):
        with pytest.raises(duckdb.Error, match="shard-hash"):
            query.filter("reward > 0").fetchall()


def test_a_relation_outlives_a_copy_of_the_same_bytes(dataset: Dataset, tmp_path: Path) -> None:
    here = dataset.duckdb()
    for path in map(Path, dataset.paths()):
        (tmp_path / "other").write_bytes(path.read_bytes())
        (tmp_path / "other").replace(path)
    assert here.to_arrow_table().to_pylist() == expected()


def test_columns_and_rows_of_a_large_relation_are_those_of_the_dataset(tmp_path: Path) -> None:
    rows = pa.table({"n": range(300_000), "text": [f"text {n % 977}" for n in range(300_000)]})
    kinds = Schema("rows", 1, (Column("n", pa.int64(), ""), Column("text", pa.string(), "")))
    dataset = Dataset.from_arrow(rows, kinds, str(tmp_path / "a%b'c;d"))
    [(count, first, last)] = dataset.sql("SELECT count(*), min(n), max(n) FROM self WHERE text = 'text 5'").fetchall()
    assert (count, first, last) == (len(range(5, 300_000, 977)), 5, range(5, 300_000, 977)[-1])
    assert dataset.sql("FROM self").to_arrow_table().equals(rows)


@pytest.mark.parametrize("place", ["memory", "glob"])
def test_places_that_duckdb_cannot_name_are_read(place: str, tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}/frames" if place == "memory" else str(tmp_path / "a*[1]?{b}")
    write(url)
    assert Dataset.open(url).sql("FROM self").to_arrow_table().to_pylist() == expected()


def test_no_door_gives_rows_that_are_not_those_of_the_manifest(dataset: Dataset) -> None:
    path = Path(dataset.paths()[2])
    path.write_bytes(path.read_bytes().replace(b"s2-", b"x2-"))
    again = Dataset.open(dataset.url)
    doors = [
        again.polars,
        again.arrow,
        again.duckdb,
        lambda: again.sql("FROM self"),
        lambda: again.polars(lazy=True).collect(),
    ]
    for door in doors:
        with pytest.raises(IntegrityError):
            door()
    (Path(dataset.url) / "_manifest.json").unlink()
    with pytest.raises(IntegrityError, match="dataset-missing"):
        Dataset.open(dataset.url)


def test_rows_of_a_notebook_become_a_dataset(dataset: Dataset, tmp_path: Path) -> None:
    url = str(tmp_path / "mine")
    frame = dataset.polars().with_columns(pl.col("reward") * 2)
    made = Dataset.from_polars(frame.lazy(), ROWS, url, parents={"scores": dataset})
    assert made.read()["reward"].to_pylist() == [2 * row["reward"] for row in expected()]  # type: ignore[operator]
    assert "scores: test.write  120 rows" in made.lineage()
    assert Dataset.from_arrow(frame.to_arrow(), ROWS, url, parents={"scores": dataset}) == made
    with pytest.raises(ConflictError):
        Dataset.from_polars(dataset.polars(), ROWS, url)
    with pytest.raises(DataError, match="no columns score"):
        Dataset.from_polars(frame.with_columns(score=1), ROWS, str(tmp_path / "other"))
    with pytest.raises(DataError, match="reward"):
        Dataset.from_polars(frame.with_columns(reward=pl.lit(float("nan"))), ROWS, str(tmp_path / "other"))
    assert not list((tmp_path / "other").rglob("*.parquet"))


@pytest.mark.parametrize(
    "door", [Dataset.from_arrow, lambda rows, *more: Dataset.from_polars(pl.from_arrow(rows), *more)]
)
def test_a_key_that_stands_twice_is_refused(door: Callable[..., Dataset], tmp_path: Path) -> None:
    twice = pa.table({"sample_id": ["a", "b", "c", "b", "a"], "reward": [0.0, 1.0, 2.0, 3.0, 4.0]})
    with pytest.raises(DataError, match="2 sample_id stand in several rows, first a in row 0 and row 4") as caught:
        door(twice, ROWS, str(tmp_path / "x"))
    assert caught.value.slug == "duplicate-id" and not (tmp_path / "x").exists()
    both = ROWS.renamed("rows", key=("sample_id", "reward"))
    assert door(twice, both, str(tmp_path / "both")).num_rows == 5
    assert door(twice, ROWS.renamed("rows", key=()), str(tmp_path / "none")).num_rows == 5
    with pytest.raises(DataError, match="duplicate-id"):
        door(pa.concat_tables([twice, twice.slice(3, 1)]), both, str(tmp_path / "y"))


def test_ten_lines_say_what_it_is(dataset: Dataset) -> None:
    lines = repr(dataset).splitlines()
    assert len(lines) <= 10 and all(len(line) <= 110 for line in lines[1:])
    assert lines[1].startswith("  120 rows v1, 3 shards, ") and lines[1].endswith("key sample_id")
    assert lines[2:4] == ["  3 rejected: short 3", "  made by test.write"]
    assert lines[4] == "  columns sample_id: string, reward: double"
    mean = sum(float(row["reward"]) for row in expected()) / 120  # type: ignore[arg-type]
    assert lines[5].startswith(f"  mean ± deviation reward {mean:.4g} ±")


def chain(tmp_path: Path, length: int) -> Dataset:
    """A dataset made of one made of one, so many in all."""
    last = Dataset.from_arrow(rows(0), ROWS, str(tmp_path / "0"))
    for number in range(1, length):
        last = Dataset.from_arrow(rows(0), ROWS, str(tmp_path / str(number)), parents={"before": last})
    return last


def test_a_long_line_of_ancestors_is_cut_and_says_where_it_goes_on(tmp_path: Path) -> None:
    last = chain(tmp_path, 45)
    text = last.lineage().splitlines()
    assert len(text) == 32 and max(map(len, text)) < 400
    assert text[0].endswith(f"{tmp_path}/44") and text[30].endswith(f"{tmp_path}/14")
    assert text[31].strip() == f"... what that was made of: {program('quiver')} show {tmp_path}/14"
    rest = Dataset.open(text[31].split()[-1]).lineage().splitlines()
    assert len(rest) == 15 and rest[-1].endswith(f"{tmp_path}/0")


def test_many_inputs_are_cut_and_counted(tmp_path: Path) -> None:
    one = Dataset.from_arrow(rows(0), ROWS, str(tmp_path / "one"))
    wide = Dataset.from_arrow(rows(0), ROWS, str(tmp_path / "wide"), parents={f"input {n}": one for n in range(1200)})
    text = wide.lineage().splitlines()
    assert len(text) == 52 and text[-1] == f"  ... 1,150 more inputs: {program('quiver')} show {wide.url}"


def test_many_columns_still_make_ten_lines(tmp_path: Path) -> None:
    columns = [Column(f"a_column_with_quite_a_long_name_{n}", pa.float64(), "x") for n in range(200)]
    wide = Schema("wide", 1, tuple(columns))
    lines = repr(Dataset.from_arrow(wide.example(2), wide, str(tmp_path / "wide"))).splitlines()
    assert len(lines) <= 10 and max(map(len, lines[1:])) <= 110


def hostile(tmp_path: Path) -> Dataset:
    schema = Schema(f"rows{BAD}", 1, (Column(f"text{BAD}", pa.string(), "x"), Column("n", pa.int64(), "x")))
    with Attempt.begin(str(tmp_path / "bad"), schema) as attempt, attempt.shard(0) as shard:
        shard.write(pa.table({f"text{BAD}": [BAD * 50], "n": [1]}))
        stats = {"rejected": "no object", "columns": {"n": {"mean": BAD, "count": [], "m2": None}}}
        return attempt.commit([shard.finish()], op={"name": BAD}, stats=stats)


def test_hostile_text_is_escaped(tmp_path: Path) -> None:
    dataset = hostile(tmp_path)
    shown, page = repr(dataset), dataset._repr_html_()
    assert not re.search("[\x1b\u202e]", shown + page)
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert len(shown.splitlines()) <= 10 and len(page) < 4000


def test_the_page_of_a_dataset_that_is_gone_says_so(dataset: Dataset) -> None:
    page = dataset._repr_html_()
    assert page.count("<tr>") == 6 and "<td>s0-4</td>" in page
    Path(dataset.paths()[0]).unlink()
    gone = dataset._repr_html_()
    assert "shard-missing" in gone and "<table>" not in gone
    assert repr(dataset).splitlines()[1].startswith("  120 rows")


def test_figures_of_a_manifest_from_outside_cannot_break_the_text(tmp_path: Path) -> None:
    """Whatever JSON stands where moments should be."""
    dataset = hostile(tmp_path)
    manifest = read_manifest(dataset.url)
    assert manifest is not None
    for junk in (None, [], "x", {"n": None}, {"n": {"mean": 1e400, "count": 2, "m2": 1}}, {"n": {"mean": 1}}):
        stats = json.loads(json.dumps({"columns": junk, "rejected": junk}))
        object.__setattr__(manifest, "stats", stats)
        assert "mean" not in repr(Dataset(dataset.url, manifest))


def test_pandas_is_an_extra(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(QuiverError, match=r"no-pandas[\s\S]*next: .*\[pandas\]"):
        dataset.pandas()


def test_rows_as_a_pandas_frame(dataset: Dataset) -> None:
    pytest.importorskip("pandas", reason="an extra that the tests do not ask for: it slows pyarrow's imports")
    frame = dataset.pandas()
    assert frame.to_dict("records") == expected()


def test_a_column_that_is_not_there_is_named_with_those_that_are(dataset: Dataset) -> None:
    for read in (dataset.arrow, dataset.polars, dataset.read):
        with pytest.raises(QuiverError, match="has no column rewrad") as caught:
            read(["rewrad"])
        assert "reward" in caught.value.expected
