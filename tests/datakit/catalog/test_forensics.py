"""The views that ask for signs: each against numbers worked by hand, or by numpy, over a workspace of a few rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.catalog.ask import ask
from datakit.catalog.fact_views import fact_views
from datakit.catalog.forensics import forensic_views
from datakit.catalog.lineage import Lineage
from datakit.catalog.row_views import Chosen, row_views
from datakit.sql import connect
from schemas import COMPLETIONS, SAMPLES, TOKENS, Column, Dataset
from schemas.errors import ConfigError
from schemas.manifest import MANIFEST, Manifest
from schemas.rows.records import records_of
from schemas.rows.reports import REPORTS
from tests.datakit.catalog.workspaces import REWARDED, WHY, Maker, rewarded

CORRECT = Column("correct", pa.float64(), "whether it is right", finite=True)


def answers(start: int, prompts: Sequence[str], responses: Sequence[str], **more: Sequence[Any]) -> pa.Table:
    """Samples with ids from `start` on; all of a source of their own."""
    count = len(responses)
    given = {
        "sample_id": [f"s{start + number:03d}" for number in range(count)],
        "prompt_id": prompts,
        "response": responses,
        "source": ["asked"] * count,
        **more,
    }
    rows = SAMPLES.example(count)
    for column, values in given.items():
        place, field = rows.column_names.index(column), SAMPLES[column].field
        rows = rows.set_column(place, field, pa.array(values, field.type))
    return rows


def judged(make: Maker, place: str, rows: pa.Table, rewards: Sequence[float], correct: Sequence[float] = ()) -> Dataset:
    """Samples at `place`, what a model rewards them with and, where given, what a rule says of them."""
    folder, stage = place.rsplit("/", 1)
    first = make(f"{folder}/{stage}-00000001", SAMPLES, rows, op="generate.complete")
    facts = {"scorer": "abcdef0123456789"}
    given = rewarded(rows, rewards)
    made = make(f"{folder}/{stage}.rewards-00000001", REWARDED, given, first, op="label.reward", facts=facts)
    if correct:
        right = rows.append_column(CORRECT.field, pa.array(correct, pa.float64()))
        make(f"{folder}/{stage}.verified-00000001", SAMPLES.adding(CORRECT), right, first, op="label.verify")
    return made


def shown_by_the_child(make: Maker, sql: str) -> pa.Table:
    return pa.Table.from_batches(list(ask(make.root, sql)))


def shown(make: Maker, sql: str) -> list[tuple[Any, ...]]:
    """The answer of a user's own process, which that of the child equals."""
    with connect(make.root) as db:
        rows = db.sql(sql).fetchall()
    assert shown_by_the_child(make, sql).num_rows == len(rows)
    return rows


def test_reward_against_length_and_what_length_explains(make: Maker) -> None:
    """Epsilon squared: 1 - (within / (n - groups)) / (total / (n - 1)), as in Kelley (1935)."""
    letters, rewards = [2, 2, 2, 5, 5, 5, 9, 9], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 4.0, 8.0]
    judged(make, "rest/e/iter=1/samples", answers(0, ["p"] * 8, ["x" * one for one in letters]), rewards)
    single = answers(50, ["p"] * 3, ["a", "bb", "ccc"])
    judged(make, "rest/e/iter=2/samples", single, [1.0, 2.0, 4.0])
    [one, other] = shown(
        make, "SELECT iteration, answers, reward, letters, correlation, explained FROM forensics.length"
    )
    total = float(np.var(rewards) * 8)
    within = 2.0 + 2.0 + 8.0
    assert one[:2] == (1, 8)
    assert one[2:4] == pytest.approx((np.mean(rewards), np.mean(letters)))
    assert one[4] == pytest.approx(np.corrcoef(letters, rewards)[0, 1])
    assert one[5] == pytest.approx(1 - (within / 5) / (total / 7))
    assert other[4] == pytest.approx(np.corrcoef([1, 2, 3], [1, 2, 4])[0, 1])
    assert other[5] is None, "where no two answers are equally long, length explains nothing that could be measured"


def test_reward_at_equal_length_is_in_ranges_that_iterations_share(make: Maker) -> None:
    """The second iteration is longer and better paid; at one length it is not."""
    short, long = [1, 1, 1, 1, 9], [1, 9, 9, 9, 9]
    for number, lengths in enumerate((short, long), 1):
        rows = answers(100 * number, ["p"] * 5, ["x" * one for one in lengths])
        judged(make, f"rest/e/iter={number}/samples", rows, [float(one) for one in lengths])
    judged(make, "sft/other/samples", answers(300, ["p"], ["xxxxx"]), [3.0])
    asked = "SELECT iteration, shortest, longest, answers, reward FROM forensics.equal_length"
    assert shown(make, f"{asked} WHERE recipe = 'sft'") == [(None, 5, 5, 1, 3.0)], "in the ranges of all"
    assert shown(make, f"{asked} WHERE recipe = 'rest'") == [
        (1, 1, 1, 4, 1.0),
        (1, 9, 9, 1, 9.0),
        (2, 1, 1, 1, 1.0),
        (2, 9, 9, 4, 9.0),
    ]
    rewards = shown(make, "SELECT iteration, reward FROM forensics.drift WHERE recipe = 'rest' ORDER BY 1")
    assert rewards == [(1, pytest.approx(2.6)), (2, pytest.approx(7.4))]


def test_winners_that_say_the_same(make: Maker) -> None:
    texts = [f"answer {number}" for number in range(17)] + ["I win", " i  WIN ", "i win"]
    judged(
        make, "rest/e/iter=1/samples", answers(0, [f"p{n}" for n in range(20)], texts), [*map(float, range(18)), 18, 18]
    )
    rows = shown(make, "SELECT answers, prompts, share, reward, response FROM forensics.repeated_winners")
    assert rows == [(2, 2, 1.0, 18.0, " i  WIN ")], "the best tenth begins at 18; the third of them is below it"


def test_numbers_that_disagree_and_where(make: Maker) -> None:
    rewards, correct = [0.1, 0.2, 0.3, 0.4, 0.5], [1.0, 1.0, 0.0, 0.0, 0.0]
    judged(make, "rest/e/iter=1/answers", answers(0, ["p"] * 5, list("abcde")), rewards, correct)
    ranks = np.corrcoef([1, 2, 3, 4, 5], [4.5, 4.5, 2, 2, 2])[0, 1]
    [row] = shown(make, "SELECT scorer, other, answers, rank_correlation FROM forensics.disagreement")
    assert row == ("reward", "correct", 5, pytest.approx(ranks))
    apart = shown(make, "SELECT sample_id, value, other_value, apart, response FROM forensics.disputed LIMIT 2")
    assert apart == [("s000", 0.1, 1.0, pytest.approx(3.5 / 5), "a"), ("s004", 0.5, 0.0, pytest.approx(3 / 5), "e")]


def test_drift_has_lengths_words_and_divergence(make: Maker) -> None:
    texts = ["one two two", "One two", "one two"]
    cut = ["length", "stop", "stop"]
    judged(make, "rest/e/iter=1/samples", answers(0, ["p"] * 3, texts, finish_reason=cut), [1.0, 2.0, 6.0])
    kl = pa.table({"stage": ["x"], "metric": ["kl.mean"], "value": [0.25]})
    make("rest/e/iter=1/divergence-00000001", REPORTS, REPORTS.conform(kl), op="report.measure")
    [row] = shown(
        make, "SELECT reward, letters, cut, different, distinct_words, distinct_pairs, kl FROM forensics.drift"
    )
    assert row == pytest.approx((3.0, 25 / 3, 1 / 3, 1.0, 2 / 7, 2 / 4, 0.25))


def test_prompts_that_teach_nothing_and_those_that_never_improve(make: Maker) -> None:
    judged(
        make, "rest/e/iter=1/samples", answers(0, ["p", "p", "q", "q", "r"], list("abcde")), [1.0, 1.0, 0.0, 2.0, 1.0]
    )
    assert shown(make, "SELECT prompt_id, answers, reward FROM forensics.flat_prompts") == [("p", 2, 1.0)]
    asked = ["p", "q", "r"]
    for place, start, values in (
        ("first", 10, [1.0, 0, 0]),
        ("rest/e/iter=1", 20, [0.0, 1, 0]),
        ("rest/e/iter=2", 30, [1.0, 0, 0]),
    ):
        judged(make, f"{place}/answers", answers(start, asked, list("abc")), [0.0] * 3, values)
    sql = "SELECT recipe, prompt_id, times, first, best_later FROM forensics.never_improved WHERE scorer = 'correct'"
    assert shown(make, sql) == [("rest", "p", 3, 1.0, 1.0), ("rest", "r", 3, 0.0, 0.0)]


def test_reward_up_and_gold_down(make: Maker) -> None:
    for place, start, rewards, correct in (
        ("digits/first", 0, [0.0, 1.0], [0.0, 0.0]),
        ("rest/e/iter=1", 10, [1.0, 2.0], [1.0, 1.0]),
        ("rest/e/iter=2", 20, [3.0, 2.0], [1.0, 0.0]),
    ):
        judged(make, f"{place}/answers", answers(start, ["p", "q"], ["a", "b"]), rewards, correct)
    changes = "reward_change, gold_change, over_optimised"
    asked = f"SELECT iteration, gold_scorer, reward, gold, {changes} FROM forensics.over_optimised"
    assert shown(make, asked) == [
        (1, "correct", 1.5, 1.0, 1.0, 1.0, False),
        (2, "correct", 2.5, 0.5, 1.0, -0.5, True),
    ]


def test_the_way_of_rows_by_source_and_those_all_but_kept(make: Maker) -> None:
    rows = answers(0, ["p"] * 4, list("abcd"))
    rewards = judged(make, "rest/e/iter=1/samples", rows, [0.1, 0.45, 0.5, 0.9])
    scored = rewarded(rows, [0.1, 0.45, 0.5, 0.9])
    aside = scored[:2]
    for column, values in zip(WHY, (["below"] * 2, [0.1, 0.45], ["> 0.5"] * 2), strict=True):
        aside = aside.append_column(column.field, pa.array(values, column.type))
    kept = make(
        "rest/e/iter=1/step=1/kept-00000001", REWARDED, scored[2:], rewards, op="filter.threshold", rejected=aside
    )
    make("own/read-00000001", COMPLETIONS, COMPLETIONS.example(2))
    ids = pa.array(["s002"])
    tokens = TOKENS.example(1)
    tokens = tokens.set_column(tokens.column_names.index("sample_id"), TOKENS["sample_id"].field, ids)
    data = make("rest/e/iter=1/step=1/tokens-00000001", TOKENS, tokens, kept, op="tokenize.mask")
    folder = make.root / "rest/e/iter=1/step=1/policy-00000001"
    folder.mkdir(parents=True)
    trained = Manifest(
        kind="checkpoint", op={"name": "sft", "version": 1, "params": {}}, parents=(data.as_parent("data"),)
    )
    (folder / MANIFEST).write_bytes(trained.to_bytes())
    ways = shown(make, "SELECT kind, source, rows, set_aside, learnt FROM forensics.sources")
    assert ways[-1] == ("samples", "asked", 4, 2, 1)
    assert sum(rows for kind, _, rows, *_ in ways if kind == "completions") == 2
    near = shown(make, "SELECT sample_id, value, threshold, short_of FROM forensics.borderline")
    assert near == [("s001", 0.45, "> 0.5", pytest.approx(0.05)), ("s000", 0.1, "> 0.5", pytest.approx(0.4))]


def test_of_pairs_both_answers_were_learnt(make: Maker) -> None:
    from schemas import PREFERENCES

    rows = answers(0, ["p"] * 3, list("abc"))
    first = make("dpo/e/samples-00000001", SAMPLES, rows, op="generate.complete")
    pairs = PREFERENCES.example(1)
    for column, value in (("chosen_sample_id", "s000"), ("rejected_sample_id", "s002")):
        pairs = pairs.set_column(pairs.column_names.index(column), PREFERENCES[column].field, pa.array([value]))
    made = make("dpo/e/pairs-00000001", PREFERENCES, pairs, first, op="blend.pair")
    folder = make.root / "dpo/e/policy-00000001"
    folder.mkdir(parents=True)
    trained = Manifest(
        kind="checkpoint", op={"name": "dpo", "version": 1, "params": {}}, parents=(made.as_parent("data"),)
    )
    (folder / MANIFEST).write_bytes(trained.to_bytes())
    records = records_of("pair_id")
    seen = {"pair_id": pairs["pair_id"][0].as_py(), "step": 1, "epoch": 0, "source": None, "weight": 1.0, "loss": 0.5}
    make("dpo/e/policy-00000001.records", records, pa.Table.from_pylist([seen], schema=records.arrow), op="dpo.records")
    assert shown(make, "SELECT source, rows, learnt FROM forensics.sources WHERE kind = 'samples'") == [("asked", 3, 2)]


def test_best_and_worst_of_every_line(make: Maker) -> None:
    count = 50
    rows = answers(0, ["p"] * count, [f"r{number}" for number in range(count)])
    judged(make, "rest/e/iter=1/samples", rows, [float(number) for number in range(count)])
    ends = shown(make, "SELECT side, value, response FROM forensics.extremes")
    assert ends[:20] == [("best", float(one), f"r{one}") for one in range(49, 29, -1)]
    assert ends[20:] == [("worst", float(one), f"r{one}") for one in range(19, -1, -1)]


def test_each_is_there_in_an_empty_workspace_and_says_how_it_is_read(make: Maker) -> None:
    nothing = Chosen([], Lineage([]))
    views = forensic_views(row_views(nothing) | fact_views([], Lineage([]), frozenset()))
    assert len(views) == 12
    listed = dict(shown(make, "SELECT view, count(*) FROM columns WHERE view LIKE 'forensics.%' GROUP BY 1"))
    assert shown(make, "FROM forensics.extremes") == []
    with connect(make.root) as db:
        read = dict(db.sql("SELECT view_name, comment FROM duckdb_views() WHERE schema_name = 'forensics'").fetchall())
        for view, one in views.items():
            rows = db.sql(f"FROM forensics.{view}")
            assert rows.fetchall() == [] and {*one.columns} == {*rows.columns}
            assert listed[f"forensics.{view}"] == len(rows.columns) and read[view] == one.meaning != ""


def spoil(make: Maker) -> Path:
    """A shard of rewards whose numbers are texts; the manifest says nothing of it but the size."""
    shard = next(make.root.rglob("samples.rewards-*/part-*.parquet"))
    stored = pq.read_table(shard)
    place = stored.column_names.index("reward")
    pq.write_table(stored.set_column(place, "reward", stored["reward"].cast(pa.string())), shard)
    return shard


def test_what_is_damaged_is_named_by_all_that_are_over_it_and_the_rest_is_there(make: Maker) -> None:
    judged(make, "rest/e/iter=1/samples", answers(0, ["p"] * 2, ["a", "b"]), [0.0, 1.0])
    shard = spoil(make)
    ways = "SELECT rows FROM forensics.sources WHERE kind = 'samples'"
    with pytest.raises(duckdb.Error, match="is not what its manifest says"):
        shown(make, "FROM forensics.length")
    assert shown(make, ways) == [(2,)]
    manifest = shard.parent / MANIFEST
    made = Manifest.from_bytes(manifest.read_bytes(), "rewards")
    listed = tuple(dataclasses.replace(one, bytes=shard.stat().st_size) for one in made.files)
    manifest.write_bytes(dataclasses.replace(made, files=listed).to_bytes())
    with pytest.raises(duckdb.Error, match="the view length cannot be made: value is VARCHAR in a file, DOUBLE"):
        shown(make, "FROM forensics.length")
    assert shown(make, ways) == [(2,)]


def test_a_name_that_there_is_not_is_answered_with_the_near_one(make: Maker) -> None:
    with pytest.raises(ConfigError) as refusal:
        shown_by_the_child(make, "FROM forensics.lenght")
    assert refusal.value.nearest == "forensics.length"
