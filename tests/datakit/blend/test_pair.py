"""blend.pair: hand-worked pairs for every rule; ties, equal texts and broken rewards never pair."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datakit.apply import apply
from datakit.blend import Pair, pair
from datakit.op import Context
from schemas import IDS, PREFERENCES, SAMPLES, Column
from schemas.errors import ConfigError
from tests.datakit.fakes import Example, bare, scored

EXAMPLES = [
    Example(Pair(), (scored(),)),
    Example(Pair(rule="all_pairs", max_pairs=2), (scored(),)),
    Example(Pair(rule="best_vs_random", max_length_ratio=2.0), (scored(),)),
    Example(Pair(beside=(("response_ids", "ids"),)), (scored(),)),
]

NAN = math.nan


def pairs(op, rows, seed=0):
    table = op.gather(rows, Context(seed=seed)).rows
    return [
        (c.split()[1], r.split()[1])
        for c, r in zip(*(table[n].to_pylist() for n in ("chosen", "rejected")), strict=True)
    ]


def reasons(op, rows):
    table = op.gather(rows, Context()).rejected
    return list(zip(*(table[name].to_pylist() for name in ("sample_id", "reason", "value")), strict=True))


def test_best_against_worst(answers):
    rows = answers({"a": [0.5, 0.9, 0.1, 0.9, 0.1, NAN], "b": [None, 1.0], "c": [2.0, 2.0], "d": [0.0, 3.0]})
    assert pairs(Pair(), rows) == [("a1", "a2"), ("d1", "d0")]
    alone = [("b0", "not-finite", None), ("b1", "fewer-than-two", 0.0), ("c0", "tied", 0.0), ("c1", "tied", 0.0)]
    more = [("a0", "beyond-max-pairs", 0.4), ("a3", "beyond-max-pairs", 0.8), ("a4", "beyond-max-pairs", 0.8)]
    assert reasons(Pair(), rows) == [*more, ("a5", "not-finite", None), *alone]
    assert pairs(Pair(margin=1.0), rows) == [("d1", "d0")]
    within = [("a0", 0.4), ("a1", 0.8), ("a2", 0.8), ("a3", 0.8), ("a4", 0.8)]
    assert reasons(Pair(margin=1.0), rows)[:5] == [(name, "within-margin", far) for name, far in within]


@pytest.mark.parametrize("rule", ["best_vs_worst", "all_pairs"])
def test_a_prompt_of_too_many_answers_is_rejected_alone(answers, rule, monkeypatch):
    monkeypatch.setattr(pair, "_MOST_ANSWERS", 3)
    rows = answers({"a": [0.0, 1.0, 3.0], "b": [0.0, 1.0, 2.0, 5.0], "c": [4.0, 1.0]})
    assert [chosen[0] + rejected[0] for chosen, rejected in pairs(Pair(rule=rule), rows)] == ["aa", "cc"]
    gone = [name for name in reasons(Pair(rule=rule), rows) if name[0].startswith("b")]
    assert gone == [(f"b{number}", "too-many-answers", None) for number in range(4)]


def test_columns_of_the_answers_come_along(answers):
    rows = answers({"a": [0.5, 0.9, 0.1], "b": [1.0, 2.0]})
    rows = rows.append_column("tokens", [[[n, n + 1] for n in range(5)]])
    op = Pair(beside=(("tokens", "ids"), ("sample_index", "place")))
    made = op.gather(rows, Context()).rows
    assert made["chosen_ids"].to_pylist() == [[1, 2], [4, 5]] and made["rejected_ids"].to_pylist() == [[2, 3], [3, 4]]
    assert made["chosen_place"].to_pylist() == [1, 1] and made["rejected_place"].to_pylist() == [2, 0]
    schema = SAMPLES.adding(Column("reward", pa.float64(), "a number"))
    given = Pair(beside=(("response_ids", "ids"),)).gives(schema)
    assert given.names[-2:] == ("chosen_ids", "rejected_ids") and given["chosen_ids"].type == IDS
    with pytest.raises(ConfigError, match="has no column nothing"):
        Pair(beside=(("nothing", "ids"),)).gives(schema)
    assert "beside" not in Pair().params(), "older keys do not notice"


def test_right_against_wrong(answers):
    rows = answers({"a": [1.0, 0.0], "b": [0.0, 0.0], "c": [1.0, 1.0], "d": [0.0, 1.0, NAN]})
    op = Pair(rule="right_vs_wrong")
    assert pairs(op, rows) == [("a0", "a1"), ("d1", "d0")]
    gone = [
        (f"{prompt}{number}", f"none-{side}", None)
        for prompt, side in (("b", "right"), ("c", "wrong"))
        for number in (0, 1)
    ]
    assert reasons(op, rows) == [*gone, ("d2", "not-finite", None)]
    far = answers({"a": [9.0, 1.0, 0.5, 0.0]})
    assert pairs(Pair(rule="right_vs_wrong", margin=8.7), far) == [("a0", "a3")]
    assert reasons(Pair(rule="right_vs_wrong", margin=8.7), far) == [
        ("a1", "within-margin", 1.0),
        ("a2", "within-margin", 8.5),
    ], "a right answer is held against wrong ones alone"


def test_a_column_of_truths_pairs_too(answers):
    rows = answers({"a": [0.0, 0.0]}).append_column("correct", pa.array([False, True]))
    assert pairs(Pair(rule="right_vs_wrong", column="correct"), rows) == [("a1", "a0")]


def test_all_pairs_are_the_pairs_with_a_margin(answers):
    rows = answers({"a": [1.0, 2.0, 3.0]})
    assert set(pairs(Pair(rule="all_pairs", max_pairs=9), rows)) == {("a2", "a0"), ("a2", "a1"), ("a1", "a0")}
    assert pairs(Pair(rule="all_pairs", max_pairs=9, margin=1.0), rows) == [("a2", "a0")]
    drawn = {pairs(Pair(rule="all_pairs"), rows, seed)[0] for seed in range(12)}
    assert len(drawn) == 3, "each of the three pairs is drawn with some seed"


def test_the_best_against_a_lower_one_by_lot(answers):
    rows = answers({"a": [1.0, 3.0, 2.0, 3.0]})
    drawn = {pairs(Pair(rule="best_vs_random"), rows, seed)[0] for seed in range(12)}
    assert drawn == {("a1", "a0"), ("a1", "a2")}, "the first of the best, against either that is lower"
    assert sorted(pairs(Pair(rule="best_vs_random", max_pairs=2), rows)) == [("a1", "a0"), ("a1", "a2")]


def test_answers_whose_lengths_lie_too_far_apart_never_pair(answers):
    rows = answers({"a": [1.0, 0.0, 0.5], "b": [1.0, 0.0]})
    texts = ["abcdef", "xy", "abc", "é" * 2, "z" * 5]  # 6, 2, 3, 2 and 5 characters
    rows = rows.set_column(rows.column_names.index("response"), "response", pa.array(texts))

    def made(op):
        return op.gather(rows, Context()).rows.select(["chosen", "rejected"]).to_pylist()

    wide, close = Pair(max_length_ratio=3), Pair(max_length_ratio=2.0)
    assert made(wide) == [{"chosen": "abcdef", "rejected": "xy"}, {"chosen": "éé", "rejected": "zzzzz"}]
    assert made(close) == [{"chosen": "abcdef", "rejected": "abc"}]
    assert reasons(close, rows) == [
        ("a1", "beyond-max-pairs", 1.0),
        ("b0", "lengths-apart", 1.0),
        ("b1", "lengths-apart", 1.0),
    ]
    assert {row[1] for row in reasons(Pair(max_length_ratio=2.0, margin=1.0), rows)} == {"within-margin"}


def test_equal_texts_never_pair(answers):
    rows = answers({"a": [1.0, 0.0]}).set_column(4, "response", pa.array(["the same", "the same"]))
    assert pairs_of_texts(rows) == []
    assert reasons(Pair(), rows) == [("a0", "same-text", 1.0), ("a1", "same-text", 1.0)]


def pairs_of_texts(rows):
    return Pair().gather(rows, Context()).rows["chosen"].to_pylist()


def test_rows_are_preferences(put, answers, tmp_path):
    out = apply(Pair(), put(answers({"a": [0.0, 1.0], "b": [1.0]})), str(tmp_path / "o"))
    assert out.schema == PREFERENCES
    (row,) = out.read().to_pylist()
    assert (row["chosen_reward"], row["rejected_reward"], row["source"]) == (1.0, 0.0, None)
    assert bare(row["messages"]) == [{"role": "user", "content": "question a"}]
    (gone,) = out.read_rejected().to_pylist()
    assert (gone["sample_id"], gone["reason"], gone["reward"]) == ("b0", "fewer-than-two", 1.0)
    assert out.stats["rejected"] == {"fewer-than-two": 1}


some = st.dictionaries(
    st.sampled_from("abcd"),
    st.lists(st.one_of(st.just(NAN), st.integers(0, 3).map(float)), max_size=5),
    min_size=1,
)
rules = st.sampled_from(["best_vs_worst", "best_vs_random", "all_pairs", "right_vs_wrong"])


@settings(max_examples=9)
@given(some, rules, st.integers(1, 4))
def test_every_pair_is_ordered_and_every_answer_is_paired_or_set_aside(answers, rewards, rule, most):
    rows = answers(rewards)
    op = Pair(rule=rule, max_pairs=most)
    made = pairs(op, rows)
    value = dict(zip(rows["sample_id"].to_pylist(), rows["reward"].to_pylist(), strict=True))
    assert all(value[better] > value[worse] for better, worse in made)
    assert len(set(made)) == len(made)
    counts = {prompt: sum(better[0] == prompt for better, _ in made) for prompt in rewards}
    assert all(count <= most for count in counts.values())
    paired = {name for pair in made for name in pair}
    assert [row[0] for row in reasons(op, rows)] == [name for name in value if name not in paired]


@settings(max_examples=6)
@given(some, rules)
def test_one_broken_row_and_another_order_change_no_pair(answers, rewards, rule):
    op, rows = Pair(rule=rule), answers(rewards)
    more = answers({prompt: [*values, NAN] for prompt, values in rewards.items()})
    assert pairs(op, more) == pairs(op, rows)
    backwards = rows.take(pa.array(range(rows.num_rows - 1, -1, -1), pa.int64()))
    assert sorted(pairs(op, backwards)) == sorted(pairs(op, rows))


def test_the_cut_into_shards_does_not_matter(put, answers, tmp_path):
    rows = answers({p: [1.0, 2.0, 3.0] for p in "abcd"})
    op = Pair(rule="all_pairs", max_pairs=2)
    outs = [apply(op, put(rows, cuts), str(tmp_path / f"{len(cuts)}"), seed=5) for cuts in [(), (3, 9)]]
    assert outs[0].read().equals(outs[1].read())


def test_settings_are_checked():
    for bad in (
        {"margin": -1.0},
        {"max_pairs": 0},
        {"margin": NAN},
        {"max_length_ratio": 0.5},
        {"max_length_ratio": NAN},
    ):
        with pytest.raises(ConfigError):
            Pair(**bad)
