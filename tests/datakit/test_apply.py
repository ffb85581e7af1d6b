"""One operation over one dataset: what comes out, what is refused, what is left when it fails."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.label import Length, Reward, Standardize
from datakit.op import REJECTION_COLUMNS
from datakit.sql import Query
from schemas import PROMPTS, Column
from schemas.dataset import Dataset
from schemas.errors import ConfigError, ConflictError, DataError
from tests.datakit.fakes import Count, Fails, FirstOfShard, Lies, Short, Twice, responses, scorer

LENGTH = Length(column="prompt_id")


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_label_keeps_rows_shards_and_order(put, tmp_path):
    given = put(PROMPTS.example(10), (3, 3, 7))
    out = apply(LENGTH, given, str(tmp_path / "out"))
    assert out.read().drop_columns(["prompt_id_characters"]) == given.read()
    assert [file.rows for file in out.shards] == [3, 0, 4, 3]
    assert out.read()["prompt_id_characters"].to_pylist() == [len("prompt_id 0")] * 10
    assert out.schema == given.schema.adding(*LENGTH.adds)


def test_the_manifest_says_where_rows_came_from(put, tmp_path):
    given = put(PROMPTS.example(4))
    out = apply(LENGTH, given, str(tmp_path / "out"), seed=5)
    assert out.manifest.op == {
        "name": "label.length",
        "version": 1,
        "params": json.loads(json.dumps(LENGTH.params())),
    }
    assert [(p.url, p.content_digest) for p in out.manifest.parents] == [(given.url, given.content_digest)]
    assert out.manifest.seed == 5
    assert out.task_key == apply(LENGTH, given, str(tmp_path / "again"), seed=5).task_key
    assert out.task_key != apply(LENGTH, given, str(tmp_path / "other"), seed=6).task_key


def test_keep_writes_what_goes_beside_it_with_the_reason(put, tmp_path):
    given = put(PROMPTS.example(12), (5,))
    out = apply(Short(limit=8), given, str(tmp_path / "out"))
    gone = out.read_rejected()
    assert out.num_rows == 10
    assert gone["prompt_id"].to_pylist() == ["prompt_id 10", "prompt_id 11"]
    assert (
        gone.select([c.name for c in REJECTION_COLUMNS]).to_pylist()
        == [{"reason": "too-long", "value": 9.0, "threshold": "<= 8"}] * 2
    )
    assert out.stats["rejected"] == {"too-long": 2}
    assert [file.path for file in out.rejected] == ["rejected/part-00001.parquet"]


def test_a_filter_that_removes_all_is_no_error(put, tmp_path):
    out = apply(Short(limit=0), put(PROMPTS.example(4)), str(tmp_path / "out"))
    assert (out.num_rows, out.stats["rejected"]) == (0, {"too-long": 4})


def test_expand_and_its_counts(put, tmp_path):
    out = apply(Twice(), put(PROMPTS.example(7), (4,)), str(tmp_path / "out"))
    assert out.num_rows == 14
    assert out.read()["prompt_id"].to_pylist()[:3] == ["prompt_id 0/0", "prompt_id 0/1", "prompt_id 1/0"]
    assert out.stats["counts"] == {"doubled": 7}


def test_gather_sees_a_whole_shard_whatever_the_chunk(put, tmp_path):
    out = apply(FirstOfShard(), put(PROMPTS.example(10), (4, 6)), str(tmp_path / "out"), rows_per_chunk=2)
    assert out.read()["prompt_id"].to_pylist() == ["prompt_id 0", "prompt_id 4", "prompt_id 6"]


def test_a_stream_is_cut_into_shards(tmp_path):
    out = apply(Count(rows=25), [], str(tmp_path / "out"), rows_per_shard=10)
    assert [file.rows for file in out.shards] == [10, 10, 2]
    assert out.read()["n"].to_pylist() == [n for n in range(25) if n % 8 != 7]
    assert out.read_rejected()["n"].to_pylist() == [7, 15, 23]
    assert out.stats["rejected"] == {"seventh": 3}


@pytest.mark.parametrize("step", [1, 3, 4, 100])
@pytest.mark.parametrize("each", [2, 3, 5])
def test_a_stream_is_not_cut_inside_a_prompt(tmp_path, step, each):
    out = apply(Count(rows=60, step=step, each=each), [], str(tmp_path / "out"), rows_per_shard=7)
    homes = Counter(name for i in range(len(out.shards)) for name in set(out.read_shard(i)["prompt_id"].to_pylist()))
    assert set(homes.values()) == {1}
    assert len(out.shards) > 3
    assert out.read()["n"].to_pylist() == [n for n in range(60) if n % 8 != 7]


def test_an_empty_stream_is_one_empty_shard(tmp_path):
    out = apply(Count(rows=0), [], str(tmp_path / "out"))
    assert [file.rows for file in out.shards] == [0]


@pytest.mark.parametrize("rows_per_chunk", [1, 2, 5, 1000])
def test_chunks_do_not_matter(put, tmp_path, rows_per_chunk):
    given = put(PROMPTS.example(11), (6,))
    whole = apply(Short(limit=8), given, str(tmp_path / "whole"))
    cut = apply(Short(limit=8), given, str(tmp_path / "cut"), rows_per_chunk=rows_per_chunk)
    assert cut.content_digest == whole.content_digest


def test_figures_of_the_whole_are_merged_from_the_shards(put, tmp_path):
    numbers = np.random.default_rng(0).normal(size=1000)
    schema = PROMPTS.adding(Column("x", pa.float64(), "a number"))
    table = schema.conform(PROMPTS.example(1000).append_column("x", pa.array(numbers)))
    for name, cuts in (("one", ()), ("many", (1, 2, 500, 998))):
        out = apply(LENGTH, put(table, cuts), str(tmp_path / name))
        figures = out.stats["columns"]["x"]
        assert figures["mean"] == pytest.approx(numbers.mean(), rel=1e-12)
        assert figures["m2"] == pytest.approx(numbers.var() * 1000, rel=1e-12)
        assert (figures["min"], figures["max"]) == (numbers.min(), numbers.max())
        assert sorted(out.stats) == ["columns", "counts", "rejected"]


def test_the_same_task_again_is_done_already(put, tmp_path):
    given = put(PROMPTS.example(4))
    first = apply(LENGTH, given, str(tmp_path / "out"))
    second = apply(LENGTH, given, str(tmp_path / "out"), on_progress=lambda _: pytest.fail("worked again"))
    assert first == second
    with pytest.raises(ConflictError, match="out-taken"):
        apply(Length(column="prompt_id", unit="words"), given, str(tmp_path / "out"))


def test_a_missing_column_is_refused_before_any_work(put, tmp_path):
    given = put(PROMPTS.example(4), schema=PROMPTS.dropping("prompt_id"))
    with pytest.raises(DataError, match=r"error\[10/schema\].*no column prompt_id: string") as caught:
        apply(LENGTH, given, str(tmp_path / "out"))
    assert caught.value.kept == "nothing was started"
    assert leftovers(tmp_path) == []


def test_wrong_numbers_of_inputs_and_resources_are_refused(put, tmp_path):
    given = put(PROMPTS.example(4))
    into = str(tmp_path / "out")
    for inputs in ([], [given, given]):
        with pytest.raises(ConfigError, match=f"takes one input, got {len(inputs)}"):
            apply(LENGTH, inputs, into)
    with pytest.raises(ConfigError, match="takes no input"):
        apply(Count(), given, into)
    with pytest.raises(ConfigError, match="does not use a scorer"):
        apply(LENGTH, given, into, resources=scorer())
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(("row", "processes"), [*((row, 0) for row in range(9)), (0, 2), (8, 2)])
def test_an_op_that_raises_is_blamed_with_the_row(put, tmp_path, row, processes):
    given = put(PROMPTS.example(9), (4,))
    out = tmp_path / "out"
    with pytest.raises(DataError) as caught:
        apply(Fails(at=f"prompt_id {row}"), given, str(out), processes=processes)
    first = caught.value.render().splitlines()[0]
    assert first == f"error[10/op-failed]: row prompt_id=prompt_id {row} in test.fails: KeyError: 'prompt_id {row}'"
    assert leftovers(out) == []
    assert not Dataset.exists(str(out))


def test_a_stream_that_raises_is_blamed_with_its_place(tmp_path):
    with pytest.raises(
        DataError,
        match=r"op-failed\]: after 11 rows, the last prompt_id=p11 in test.count: OSError: the cable",
    ):
        apply(Count(fails_after=12), [], str(tmp_path / "out"))
    assert leftovers(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("what", "slug"),
    [("nan", "not-finite"), ("null", "null"), ("short", "op-failed"), ("other", "op-failed")],
)
def test_an_op_that_breaks_its_promise_is_refused(put, tmp_path, what, slug):
    with pytest.raises(DataError) as caught:
        apply(Lies(gives_what=what), put(PROMPTS.example(4)), str(tmp_path / "out"))
    assert caught.value.slug == slug
    assert leftovers(tmp_path / "out") == []


def test_rows_that_break_their_schema_are_refused_with_every_fault(put, tmp_path):
    schema = PROMPTS.adding(Column("x", pa.float64(), "a number", nullable=True))
    table = schema.conform(PROMPTS.example(4).append_column("x", pa.array([1.0, float("nan"), None, 2.0])))
    given = put(table)
    strict = replace(given, manifest=replace(given.manifest, schema=PROMPTS.adding(Column("x", pa.float64(), ""))))
    op = Standardize(column="x", mean=0.0, std=1.0)
    with pytest.raises(DataError, match="x may be null"):
        apply(op, given, str(tmp_path / "out"))
    with pytest.raises(DataError) as caught:
        apply(op, strict, str(tmp_path / "out"))
    assert "x is null in 1 of 4 rows, first row 2; x is not finite in 1 of 4 rows, first row 1" in caught.value.what
    assert f"shard 0 of {given.url}, from row 0" in caught.value.where


@pytest.mark.parametrize(
    ("limit", "fits"), [(2, True), (1, False), (0, False), (0.17, True), (0.16, False), (None, True)]
)
def test_a_budget_of_rejected_rows(put, tmp_path, limit, fits):
    given = put(PROMPTS.example(12), (11,))
    if fits:
        assert apply(Short(limit=8), given, str(tmp_path / "out"), max_rejected=limit).num_rows == 10
        return
    with pytest.raises(DataError) as caught:
        apply(Short(limit=8), given, str(tmp_path / "out"), max_rejected=limit)
    assert caught.value.slug == "too-long"
    assert "prompt_id=prompt_id 10" in caught.value.what
    assert leftovers(tmp_path / "out") == []


def test_a_share_of_a_stream_is_judged_at_its_end(tmp_path):
    assert apply(Count(rows=25), [], str(tmp_path / "out"), max_rejected=0.12).num_rows == 22
    with pytest.raises(DataError, match="seventh"):
        apply(Count(rows=25), [], str(tmp_path / "few"), max_rejected=0.11)


def test_progress_tells_rows_rate_and_the_end(put, tmp_path, monkeypatch):
    monkeypatch.setattr("datakit.run.progress.INTERVAL", 0.0)
    seen = []
    apply(
        LENGTH,
        put(PROMPTS.example(10), (4,)),
        str(tmp_path / "out"),
        on_progress=seen.append,
        rows_per_chunk=2,
    )
    assert [p.rows for p in seen] == [2, 4, 6, 8, 10, 10]
    assert seen[-1].total == 10
    assert seen[-1].eta == 0
    assert "10 of 10 rows" in str(seen[-1])
    assert str(replace(seen[0], rows=0)) == "label.length: starting, no row is done yet"


def test_progress_of_a_stream_counts_its_rows_against_no_total(put, tmp_path, monkeypatch):
    """A query may give more rows than it reads: `45 of 1 rows, -2 s left` was printed."""
    monkeypatch.setattr("datakit.run.progress.INTERVAL", 0.0)
    seen = []
    many = "SELECT prompt_id || i AS prompt_id FROM rows, range(45) AS r(i)"
    query = Query(query=many, tables=("rows",), key=("prompt_id",))
    apply(query, put(PROMPTS.example(1)), str(tmp_path / "out"), on_progress=seen.append)
    assert seen[-1].rows == 45
    assert all(p.total is None and p.eta is None and " of " not in str(p) for p in seen)


def test_facts_travel_and_resources_add_theirs(put, tmp_path):
    scored = apply(Reward(), put(responses("a", "bb")), str(tmp_path / "scored"), resources=scorer())
    assert scored.facts == {"scorer": "length"}
    assert apply(Length(), scored, str(tmp_path / "out")).facts == {"scorer": "length"}
