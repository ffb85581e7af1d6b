"""filter.best_of: hand-worked winners and ties; broken rewards never win; the cut into shards does not
matter.
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.apply import apply
from datakit.filter import BestOf
from datakit.filter.best_of import winners
from datakit.op import Context
from schemas import Schema
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example, scored

EXAMPLES = [Example(BestOf(), (scored(),)), Example(BestOf(k=2, ties="all"), (scored(),))]

NAN = math.nan


def kept(op, rows):
    return op.gather(rows, Context()).rows["sample_id"].to_pylist()


@pytest.mark.parametrize(
    ("k", "ties", "expected"),
    [
        (1, "first", ["a1", "b0"]),
        (1, "last", ["a3", "b0"]),
        (1, "all", ["a1", "a3", "b0"]),
        (2, "first", ["a1", "a3", "b0", "b1"]),
        (3, "first", ["a0", "a1", "a3", "b0", "b1"]),
        (3, "last", ["a1", "a2", "a3", "b0", "b1"]),
        (9, "all", ["a0", "a1", "a2", "a3", "b0", "b1"]),
    ],
)
def test_winners_by_hand(answers, k, ties, expected):
    rows = answers({"a": [0.5, 0.9, 0.5, 0.9, NAN, None], "b": [-1.0, -2.0, math.inf]})
    assert kept(BestOf(k=k, ties=ties), rows) == expected


def test_rows_that_go_say_why(answers):
    result = BestOf().gather(answers({"a": [0.5, 0.9, NAN], "b": [None]}), Context())
    rejected = result.rejected.select(["sample_id", "reason", "value", "threshold"]).to_pylist()
    assert [tuple(row.values()) for row in rejected] == [
        ("a0", "not-best", 0.5, "top 1: 0.9"),
        ("a2", "not-finite", None, "top 1: 0.9"),
        ("b0", "not-finite", None, "top 1: nan"),
    ]


@pytest.mark.parametrize("k", [1, 2])
def test_groups_in_which_no_answer_is_better_are_told(put, answers, tmp_path, k):
    """`b` has one answer, `c` one that counts."""
    op = BestOf(k=k)
    rows = answers({"a": [0.0] * 3, "b": [0.0], "c": [NAN, 0.0], "d": [1.0, 0.0]})
    made = apply(op, put(rows), f"{tmp_path}/o")
    assert op.notes(made.manifest) == ("in 1 of 4 groups all answers have the same reward: what stays is no better",)
    assert op.reported_means == ("reward",)
    made = apply(op, put(answers({"d": [1.0, 0.0]})), f"{tmp_path}/p")
    assert op.notes(made.manifest) == ()


def test_output_is_in_input_order_when_prompts_are_interleaved(answers):
    rows = answers({"a": [1.0, 2.0], "b": [4.0, 3.0]}).take(pa.array([3, 0, 2, 1]))
    assert kept(BestOf(), rows) == ["b0", "a1"]


def test_nothing_of_nothing(answers):
    result = BestOf().gather(answers({}), Context())
    assert (result.rows.num_rows, result.rejected.num_rows) == (0, 0)


rewards = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.lists(st.one_of(st.none(), st.just(NAN), st.integers(-3, 3).map(float)), min_size=1, max_size=6),
    min_size=1,
)


@given(rewards, st.integers(1, 3), st.sampled_from(["first", "last", "all"]))
def test_against_plain_python(answers, rewards, k, ties):
    expected = set()
    for prompt, values in rewards.items():
        finite = [(v, i) for i, v in enumerate(values) if v is not None and not math.isnan(v)]
        ranked = sorted(finite, key=lambda x: (-x[0], -x[1] if ties == "last" else x[1]))
        edge = ranked[:k][-1][0] if ranked else None
        best = [(v, i) for v, i in ranked if v >= edge] if ties == "all" else ranked[:k]
        expected |= {f"{prompt}{i}" for _, i in best}
    assert set(kept(BestOf(k=k, ties=ties), answers(rewards))) == expected


@given(rewards, st.sampled_from("abcdefgh"), st.sampled_from([NAN, None, math.inf, -math.inf]))
def test_one_broken_row_changes_no_winner(answers, rewards, prompt, broken):
    more = {**rewards, prompt: [*rewards.get(prompt, []), broken]}
    assert kept(BestOf(), answers(dict(sorted(more.items())))) == kept(BestOf(), answers(dict(sorted(rewards.items()))))


def test_the_cut_into_shards_does_not_matter(put, answers, tmp_path):
    rows = answers({p: [float(i * 7 % 5), float(i % 3), NAN] for i, p in enumerate("abcdef")})
    outs = [
        apply(BestOf(), put(rows, cuts), str(tmp_path / f"cut{n}"))
        for n, cuts in enumerate([(), (3,), (6, 9), (3, 6, 9, 12, 15)])
    ]
    assert all(out.read().equals(outs[0].read()) for out in outs)
    assert all(out.read_rejected().num_rows == 12 for out in outs)


def test_a_prompt_in_two_shards_is_an_error(put, answers, tmp_path):
    split = put(answers({"a": [1.0, 2.0], "b": [3.0, 4.0]}), (3,))
    with pytest.raises(DataError, match="b in shards 0 and 1"):
        apply(BestOf(), split, str(tmp_path / "out"))


def test_settings_are_checked(answers):
    schema = Schema.of_arrow(answers({}).schema)
    with pytest.raises(ConfigError, match="k is 0"):
        BestOf(k=0)
    with pytest.raises(ConfigError, match="did you mean reward"):
        BestOf(column="rewards").gives(schema)
    with pytest.raises(ConfigError, match="response, which is string"):
        BestOf(column="response").gives(schema)


def test_winners_of_a_hundred_thousand_take_memory_in_proportion():
    count = 100_000
    group, index = np.repeat(np.arange(count // 16), 16), np.tile(np.arange(16, dtype=np.int32), count // 16)
    keep, _ = winners(group, np.zeros(len(group)), index, 1, "first")
    assert np.flatnonzero(keep).tolist() == list(range(0, len(group), 16))
