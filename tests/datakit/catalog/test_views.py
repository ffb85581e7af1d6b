"""The views of a workspace against its Parquet files, read by Arrow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.catalog.catalog_file import refresh
from datakit.catalog.workspace import read_workspace
from datakit.op import Context
from datakit.sql import ask, connect
from datakit.tokenize import Pack, PackPairs
from schemas import PAIRS, PREFERENCES, PROMPTS, SAMPLES, TOKENS, Column, Dataset, Schema
from schemas.manifest import Manifest
from tests.datakit.catalog.workspaces import REWARDED, WHY, Maker, rewarded, samples


def rows(make: Maker, sql: str) -> list[tuple[Any, ...]]:
    with connect(make.root) as db:
        return db.sql(sql).fetchall()


def run(make: Maker, iteration: int = 1) -> dict[str, Dataset]:
    """Samples, their rewards, and those of them that a filter left."""
    folder = f"rest/digits/iter={iteration}"
    answers = samples(6, 10 * iteration)
    given = [0.1, 0.2, 0.7, 0.4, 0.5, 0.6]
    first = make(f"{folder}/samples-0000000{iteration}", SAMPLES, [answers[:4], answers[4:]], op="generate.complete")
    scored = make(
        f"{folder}/rewards-0000000{iteration}", REWARDED, rewarded(answers, given), first,
        op="label.reward", params={"column": "reward", "reads": "reward"},
    )  # fmt: skip
    left = rewarded(answers, given)
    why = [pa.array(["below"] * 2), pa.array(given[:2]), pa.array(["0.4"] * 2)]
    aside = left[:2]
    for column, values in zip(WHY, why, strict=True):
        aside = aside.append_column(pa.field(column.name, column.type, nullable=column.nullable), values)
    kept = make(
        f"{folder}/step=1/kept-0000000{iteration}", REWARDED, left[2:], scored, op="filter.threshold", rejected=aside
    )
    return {"samples": first, "rewards": scored, "kept": kept}


def test_a_sample_counts_once_whatever_was_made_of_it(make: Maker) -> None:
    run(make)
    there = rows(make, "SELECT sample_id, recipe, experiment, iteration, stage, variant, op FROM samples ORDER BY 1")
    stored = [pq.read_table(file) for file in sorted(make.root.rglob("samples-*/part-*.parquet"))]
    ids = pa.concat_tables(stored)["sample_id"].to_pylist()
    labels = ("rest", "digits", 1, "samples", "00000001", "generate.complete")
    assert there == [(one, *labels) for one in sorted(ids)]


def test_the_first_rows_by_an_order_of_some_parts_of_a_view_are_found(make: Maker) -> None:
    """A filter that leaves parts of a view out, an order and a limit: DuckDB 2.0 alone ends in an internal error."""
    for iteration in (1, 2, 3):
        run(make, iteration)
    asked = "SELECT sample_id, response FROM samples WHERE iteration = 2 ORDER BY sample_id LIMIT 3"
    whole = rows(make, "SELECT sample_id, response FROM samples WHERE iteration = 2 ORDER BY sample_id")
    assert rows(make, asked) == whole[:3] and len(whole) == 6
    [answer] = ask(make.root, asked)
    assert answer["sample_id"].to_pylist() == [sample_id for sample_id, _ in whole[:3]]


def test_rewards_are_long_and_those_of_the_column_that_was_added(make: Maker) -> None:
    run(make)
    stored = pq.read_table(next(make.root.rglob("rewards-*/part-*.parquet")))
    expected = sorted(zip(stored["sample_id"].to_pylist(), stored["reward"].to_pylist(), strict=True))
    assert rows(make, "SELECT sample_id, value FROM rewards WHERE scorer = 'reward' ORDER BY ALL") == expected
    assert rows(make, "SELECT DISTINCT stage FROM rewards") == [("rewards",)]


def test_verdicts_of_judges_stand_under_names_of_their_own(make: Maker) -> None:
    given = {"output": pa.array(["chosen", "tie", None]), "output_wins": pa.array([1.0, 0.5, None])}
    given |= {f"output_{why}": pa.array([0, 0, 2]) for why in ("refusal", "unparsed", "truncated", "error")}
    more = [Column(name, values.type, name, nullable=True) for name, values in given.items()]
    pairs = PREFERENCES.example(3)
    first = make("judges/pairs-00000001", PREFERENCES, pairs)
    for name, values in given.items():
        pairs = pairs.append_column(name, values)
    make("judges/judged-00000001", PREFERENCES.adding(*more), pairs, first, op="label.judge",
         params={"output": "output"}, facts={"judge": "abcdef0123456789"})  # fmt: skip
    scores = samples(2).append_column("judge", pa.array([3.0, None]))
    column = Column("judge", pa.float64(), "score", nullable=True)
    make("judges/scored-00000001", SAMPLES.adding(column), scores, op="label.judge", params={"output": "judge"})
    made = rows(make, "SELECT pair_id, sample_id, preferred, score, wins, unparsed, judge FROM verdicts")
    sides, wins, unparsed = (given[name].to_pylist() for name in ("output", "output_wins", "output_unparsed"))
    judged = zip(pairs["pair_id"].to_pylist(), sides, wins, unparsed, strict=True)
    verdicts = [(name, None, side, None, share, count) for name, side, share, count in judged]
    assert {one[:6] for one in made} == {*verdicts, (None, "s0", None, 3.0, None, None), (None, "s1", *[None] * 4)}
    assert {one[6] for one in made} == {"abcdef01", None}
    assert rows(make, "SELECT count(*) FROM rewards WHERE scorer = 'judge'") == [(2,)]


def test_rejected_rows_have_their_reason_and_their_columns(make: Maker) -> None:
    run(make)
    sql = "SELECT sample_id, reason, value, threshold, stage, reward FROM rejected ORDER BY 1"
    assert rows(make, sql) == [("s10", "below", 0.1, "0.4", "kept", 0.1), ("s11", "below", 0.2, "0.4", "kept", 0.2)]


def test_an_iteration_is_a_row_made_of_manifests(make: Maker) -> None:
    run(make)
    run(make, 2)
    sql = "SELECT recipe, experiment, iteration, samples, kept, round(reward, 6), seconds FROM iterations"
    means = (round(sum([0.1, 0.2, 0.7, 0.4, 0.5, 0.6]) / 6, 6), 1.5)
    assert rows(make, sql) == [("rest", "digits", number, 6, [4], *means) for number in (1, 2)]


def test_of_variants_the_last_that_was_finished_counts(make: Maker) -> None:
    made = run(make)
    other = rewarded(samples(6, 10), [0.0] * 6)
    make("rest/digits/iter=1/step=1/kept-000000ff", REWARDED, other[:1], made["rewards"], op="filter.threshold")
    assert rows(make, "SELECT variant FROM datasets WHERE stage = 'kept'") == [("000000ff",)]
    assert rows(make, "SELECT variant FROM everything.datasets WHERE stage = 'kept' ORDER BY 1") == [
        ("00000001",),
        ("000000ff",),
    ]
    assert rows(make, "SELECT count(*) FROM samples") == [(6,)]
    assert rows(make, "SELECT count(*) FROM rejected") == [(0,)]
    assert rows(make, "SELECT count(*) FROM everything.rejected") == [(2,)]


def test_what_was_made_of_another_variant_is_not_of_the_last_run(make: Maker) -> None:
    run(make)
    make("rest/digits/iter=1/samples-000000ff", SAMPLES, samples(2, 90), op="generate.complete")
    assert rows(make, "SELECT sample_id FROM samples ORDER BY 1") == [("s90",), ("s91",)]
    assert rows(make, "SELECT count(*) FROM rewards") == [(0,)]
    assert rows(make, "SELECT count(*) FROM everything.rewards") == [(6,)]


def test_columns_say_what_they_mean(make: Maker) -> None:
    run(make)
    sql = """SELECT column_name, comment FROM duckdb_columns()
             WHERE table_name = 'samples' AND schema_name = 'main' AND comment IS NOT NULL"""
    comments = dict(rows(make, sql))
    assert comments | {column.name: column.meaning for column in SAMPLES.columns} == comments
    assert comments["iteration"] == "which iteration of the recipe made it"


def test_types_that_differ_are_refused_by_name_and_nothing_is_rounded(make: Maker) -> None:
    score = [SAMPLES.adding(Column("score", kind, "a number", nullable=True)) for kind in (pa.float64(), pa.int64())]
    for number, (schema, values) in enumerate(zip(score, ([0.7, 0.2], [1, 0]), strict=True), 1):
        given = samples(2, 10 * number).append_column(schema["score"].field, pa.array(values, schema["score"].type))
        make(f"own/rows-0000000{number}" if number > 1 else "own/others-00000001", schema, given)
    assert rows(make, "SELECT count(sample_id) FROM samples") == [(4,)]
    with pytest.raises(duckdb.Error, match=r"score: DOUBLE in own/others-00000001, BIGINT in own/rows-00000002"):
        rows(make, "SELECT score FROM samples")


def test_a_shard_that_is_another_is_refused_by_name(make: Maker) -> None:
    shard = Path(run(make)["rewards"].paths()[0])
    stored = pq.read_table(shard)
    place = stored.column_names.index("reward")
    pq.write_table(stored.set_column(place, "reward", stored["reward"].cast(pa.int64(), safe=False)), shard)
    with pytest.raises(duckdb.Error, match="rest/digits/iter=1/rewards-00000001 is not what its manifest says: part-0"):
        rows(make, "SELECT avg(value) FROM rewards")
    for condition in ("value > 0.5", "sample_id = 's10'", "isfinite(value)", "value IS NOT NULL"):
        with pytest.raises(duckdb.Error, match="is not what its manifest says"):
            rows(make, f"SELECT count(*) FROM rewards WHERE {condition}")
    assert rows(make, "SELECT count(*) FROM rewards WHERE iteration = 2") == [(0,)], "nothing of it is asked"
    assert rows(make, "SELECT count(*) FROM samples") == [(6,)]
    assert [one for (one,) in rows(make, "SELECT place FROM datasets WHERE damage IS NOT NULL")] == [
        "rest/digits/iter=1/rewards-00000001"
    ]


def test_a_shard_whose_type_changes_behind_the_catalog_is_refused(make: Maker) -> None:
    """By the program that opens the file alone, without a look at the sizes of files."""
    shard = Path(run(make)["rewards"].paths()[0])
    refresh(read_workspace(str(make.root)))
    stored = pq.read_table(shard)
    place = stored.column_names.index("reward")
    pq.write_table(stored.set_column(place, "reward", stored["reward"].cast(pa.string())), shard)
    with duckdb.connect(make.root / "catalog.duckdb", read_only=True) as db, pytest.raises(duckdb.Error):
        db.sql("SELECT sum(value) FROM rewards").fetchall()


HOSTILE = ("""it's "quoted"; --""", "star*[ab]?", "'); DROP VIEW samples; --")


@pytest.mark.parametrize("text", HOSTILE)
def test_names_of_folders_and_columns_are_names_and_nothing_else(make: Maker, text: str) -> None:
    schema = SAMPLES.adding(Column(text, pa.string(), text), Column("policy", pa.string(), "of the row"))
    given = samples(2)
    for column in (text, "policy"):
        given = given.append_column(pa.field(column, pa.string(), nullable=False), pa.array([text, "b"]))
    make(f"own/{text}/rows-00000001", schema, given, op=text)
    make("own/stara/rows-00000001", SAMPLES, samples(3, 50))
    quoted = text.replace('"', '""')
    assert rows(make, f"SELECT \"{quoted}\", row_policy, op, experiment FROM samples WHERE op <> 'io.jsonl'") == [
        (text, text, text, text),
        ("b", "b", text, text),
    ]
    assert rows(make, "SELECT count(*) FROM samples") == [(5,)]


def test_the_file_holds_views_only_and_answers_the_plain_program_from_any_folder(make: Maker, tmp_path: Path) -> None:
    run(make)
    refresh(read_workspace(str(make.root)))
    code = """
import duckdb, sys
with duckdb.connect(sys.argv[1]) as db:
    for text in ("samples", "duckdb_tables()"):
        print(db.sql(f"SELECT count(*) FROM {text}").fetchall()[0][0])
"""
    (tmp_path / "elsewhere").mkdir()
    for folder, path in (
        (tmp_path, "quiver-data/catalog.duckdb"),
        (tmp_path / "elsewhere", "../quiver-data/catalog.duckdb"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, path], cwd=folder, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["6", "0"]


def test_who_has_the_file_open_stops_nobody(make: Maker) -> None:
    run(make)
    refresh(read_workspace(str(make.root)))
    code = "import duckdb, sys; db = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    other = [sys.executable, "-c", code, str(make.root / "catalog.duckdb")]
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        assert rows(make, "SELECT count(*) FROM samples") == [(6,)]
        run(make, 2)
        assert rows(make, "SELECT count(*) FROM samples") == [(12,)]
        process.communicate()


def test_opening_reads_manifests_and_no_shard(make: Maker) -> None:
    shard = Path(run(make)["samples"].paths()[0])
    assert refresh(read_workspace(str(make.root)))
    shard.write_bytes(b"x" * shard.stat().st_size)
    assert not refresh(read_workspace(str(make.root)))
    with connect(make.root) as db:
        assert db.sql("SELECT rows FROM datasets WHERE stage = 'samples'").fetchall() == [(6,)]
        with pytest.raises(duckdb.Error):
            db.sql("SELECT count(sample_id) FROM samples").fetchall()


def test_what_cannot_be_read_is_named_and_the_rest_is_there(make: Maker) -> None:
    run(make)
    (make.root / "torn").mkdir()
    (make.root / "torn" / "_manifest.json").write_text("{}")
    workspace = read_workspace(str(make.root))
    assert list(workspace.unreadable) == ["torn"]
    assert rows(make, "SELECT count(*) FROM samples") == [(6,)]


def test_pairs_that_were_split_are_counted_once(make: Maker) -> None:
    pairs = make("own/pairs-00000001", PREFERENCES, PREFERENCES.example(3), op="blend.pair")
    make("own/pairs.train-00000002", PREFERENCES, PREFERENCES.example(2), pairs, op="blend.split")
    assert rows(make, "SELECT count(*), max(stage) FROM pairs") == [(3, "pairs")]


def test_rows_of_an_earlier_version_are_read_as_those_of_today(make: Maker) -> None:
    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    columns = tuple(
        Column(one.name, turns, one.meaning) if one.name == "messages" else one
        for one in SAMPLES.columns
        if one.name != "tools"
    )
    older = Schema("samples", 1, columns, ("sample_id",))
    make("own/older-00000001", older, older.example(1))
    make("own/newer-00000002", SAMPLES, samples(1, 5))
    there = rows(make, "SELECT messages[1].role, messages[1].reasoning, tools FROM samples WHERE stage = 'older'")
    assert len(there) == 1
    assert there[0][1:] == (None, None)


def test_rows_whose_source_is_of_another_variant_stay(make: Maker) -> None:
    one = make("rest/e/iter=1/samples-aaaaaaaa", SAMPLES, samples(4), op="generate.complete")
    make("rest/e/iter=1/samples-bbbbbbbb", SAMPLES, samples(4, 10), op="generate.complete")
    make("filter/long-cccccccc", SAMPLES, samples(3), one, op="filter.where")
    counted = "SELECT dataset, count(*) FROM samples GROUP BY 1 ORDER BY 1"
    assert rows(make, counted) == [("filter/long", 3), ("rest/e/iter=1/samples", 4)]
    everything = "SELECT variant, count(*) FROM everything.samples GROUP BY 1 ORDER BY 1"
    assert rows(make, everything) == [("aaaaaaaa", 4), ("bbbbbbbb", 4)]


def test_variants_of_an_iteration_are_rows_of_their_own_in_the_order_of_numbers(make: Maker) -> None:
    for variant, start, reward in (("aaaaaaaa", 0, 1.0), ("bbbbbbbb", 10, 5.0)):
        drawn = samples(4, start)
        first = make(f"rest/e/iter=1/samples-{variant}", SAMPLES, drawn, op="generate.complete")
        make(f"rest/e/iter=1/rewards-{variant}", REWARDED, rewarded(drawn, [reward] * 4), first, op="label.reward")
    for iteration in (10, 2):
        make(f"rest/e/iter={iteration}/samples-{iteration:08d}", SAMPLES, samples(iteration, 100 * iteration))
    asked = "SELECT iteration, samples, reward FROM {}"
    later = [(2, 2, None), (10, 10, None)]
    assert rows(make, asked.format("everything.iterations")) == [(1, 4, 5.0), (1, 4, 1.0), *later]
    assert rows(make, asked.format("iterations")) == [(1, 4, 5.0), *later]


def test_the_prompts_of_an_online_run_are_no_rows_that_were_trained_on(make: Maker) -> None:
    prompts = make("own/prompts-00000001", PROMPTS, PROMPTS.example(3))
    tokens = make("own/tokens-00000001", TOKENS, TOKENS.example(2))
    answers = make("own/answers-00000001", SAMPLES, samples(4))
    trained = (("online", "online", prompts), ("offline", "train.sft", tokens), ("judge", "train.rm", answers))
    for name, op, data in trained:
        folder = make.root / "own" / f"{name}-00000001"
        folder.mkdir(parents=True)
        made = Manifest(
            kind="checkpoint", op={"name": op, "version": 1, "params": {}}, parents=(data.as_parent("data"),)
        )
        (folder / "_manifest.json").write_bytes(made.to_bytes())
    asked = "SELECT checkpoint, count(*) FROM training_rows GROUP BY 1"
    assert sorted(rows(make, asked)) == [("own/judge-00000001", 4), ("own/offline-00000001", 2)]


def test_a_sample_that_two_recipes_drew_meets_its_rewards_once_in_each(make: Maker) -> None:
    """The same policy, prompts and seed give the same samples under the same ids."""
    drawn, given = samples(4), [1.0, 2.0, 3.0, 4.0]
    for recipe in ("rest", "rejection-sampling"):
        first = make(f"{recipe}/e/iter=1/samples-00000001", SAMPLES, drawn, op="generate.complete")
        scored = make(f"{recipe}/e/iter=1/rewards-00000001", REWARDED, rewarded(drawn, given), first, op="label.reward")
        make(f"{recipe}/e/iter=1/kept-00000001", REWARDED, rewarded(drawn, given)[2:], scored, op="filter.threshold")
    other = make("rest/e/iter=2/samples-00000002", SAMPLES, samples(2, 10), op="generate.complete")
    both = pa.concat_tables([drawn, samples(2, 10)])
    make("rest/e/mixed-00000003", SAMPLES, both, first, other, op="blend.mix")
    make("rest/e/judged-00000003", REWARDED, rewarded(both, [0.0] * 6), first, other, op="label.verify")
    asked = "SELECT rewards.recipe, count(*), avg(value) FROM rewards JOIN samples USING (sample_id, drawn) GROUP BY 1"
    assert sorted(rows(make, asked)) == [("rejection-sampling", 4, 2.5), ("rest", 4, 2.5)]
    places = rows(make, "SELECT stage, count(*), count(drawn) FROM rewards GROUP BY 1 ORDER BY 1")
    assert places == [("judged", 6, 0), ("rewards", 8, 8)]
    counted = "SELECT recipe, iteration, answers FROM forensics.length WHERE stage = 'rewards' ORDER BY ALL"
    assert rows(make, counted) == [("rejection-sampling", 1, 4), ("rest", 1, 4)]


def _trained(make: Maker, name: str, data: Dataset) -> None:
    """A checkpoint that was trained on `data`."""
    folder = make.root / "own" / f"{name}-00000001"
    folder.mkdir(parents=True)
    op = {"name": "train.sft", "version": 1, "params": {}}
    made = Manifest(kind="checkpoint", op=op, parents=(data.as_parent("data"),))
    (folder / "_manifest.json").write_bytes(made.to_bytes())


@pytest.mark.parametrize("with_sources", [True, False])
def test_rows_in_packs_were_trained_on_one_by_one(make: Maker, with_sources: bool) -> None:
    """The view of packs is the view of the rows that they were made of."""
    lists = ([[1, 2], [3], [4, 5, 6], [7, 8, 9, 10]], [[0, 1], [1], [0, 0, 1], [0, 1, 1, 1]])
    kinds = (TOKENS["input_ids"].type, TOKENS["loss_mask"].type)
    ids, masks = (pa.array(one, kind) for one, kind in zip(lists, kinds, strict=True))
    given = pa.table({"sample_id": ["a", "b", "c", "d"], "input_ids": ids, "loss_mask": masks})
    if with_sources:
        given = given.append_column("source", pa.array(["x", None, "y", "x"]))
    op = Pack(capacity=5)
    schema = TOKENS if with_sources else TOKENS.dropping("source")
    packed = op.gather(given, Context()).rows
    _trained(make, "alone", make("own/tokens-00000001", schema, schema.conform(given)))
    _trained(make, "packed", make("own/packs-00000001", op.gives(schema), [packed.slice(0, 1), packed.slice(1)]))
    assert 1 < packed.num_rows < 4
    columns = "sample_id, input_ids, loss_mask, source, stage"
    asked = f"SELECT {columns} FROM training_rows WHERE checkpoint = '{{}}' ORDER BY 1"
    alone, inside = (rows(make, asked.format(f"own/{one}-00000001")) for one in ("alone", "packed"))
    assert [one[:4] for one in inside] == [one[:4] for one in alone] and len(alone) == 4
    assert {one[4] for one in inside} == {"packs"}
    names = rows(make, "SELECT DISTINCT pack_id FROM training_rows WHERE pack_id IS NOT NULL ORDER BY 1")
    assert [one for (one,) in names] == sorted(packed["pack_id"].to_pylist())


def test_pairs_in_packs_were_trained_on_one_by_one(make: Maker) -> None:
    margin = Column("margin", pa.float64(), "how far apart")
    given = PAIRS.example(5).append_column(margin.field, pa.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    op, kind = PackPairs(capacity=12, numbers=("margin",)), PAIRS.adding(margin)
    packed = op.gather(given, Context()).rows
    _trained(make, "alone", make("own/pairs-00000001", kind, given))
    _trained(make, "packed", make("own/packs-00000001", op.gives(kind), packed))
    names = ", ".join(kind.names)
    asked = f"SELECT {names} FROM training_rows WHERE checkpoint = 'own/{{}}-00000001' ORDER BY 1"
    alone, inside = (rows(make, asked.format(one)) for one in ("alone", "packed"))
    assert inside == alone and len(alone) == 5 > packed.num_rows


def test_what_an_operation_adds_for_learning_is_no_reward(make: Maker) -> None:
    drawn, added = samples(2), ("kl", "advantage", "baseline", "group_std")
    first = make("own/samples-00000001", SAMPLES, drawn, op="generate.complete")
    for place, op, names in (("kl", "label.kl", added[:1]), ("advantage", "label.group_advantage", added[1:])):
        columns, wide = [Column(name, pa.float64(), "made for a loss", finite=True) for name in names], drawn
        for column in columns:
            wide = wide.append_column(column.field, pa.array([0.5, 0.5]))
        params = {"baseline": "mean", "reward": "reward", "output": "kl"}
        make(f"own/{place}-00000001", SAMPLES.adding(*columns), wide, first, op=op, params=params)
    for op, reward in (("label.reward", 1.0), ("label.verify", 0.0)):
        made = rewarded(drawn, [reward] * 2)
        make(f"own/{op[6:]}-00000001", REWARDED, made, first, op=op, params={"answer": "answer", "reads": ""})
    asked = "SELECT op, scorer, avg(value) FROM rewards GROUP BY ALL ORDER BY ALL"
    assert rows(make, asked) == [("label.reward", "reward", 1.0), ("label.verify", "reward", 0.0)]
