"""blend.split: parts are disjoint and whole, equal keys never straddle, counts are exact."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datakit.apply import apply
from datakit.blend import Mix, Shuffle, Split
from datakit.columns.conversations import first_question, of_rows
from datakit.op import Context
from schemas import MESSAGES
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example, scored

PARTS = ("train", "validation")
EXAMPLES = [Example(Split(part="train", parts=PARTS, shares=(0.75, 0.25)), (scored(),))]


def table(keys):
    return pa.table({"prompt_id": pa.array(keys, pa.string()), "n": list(range(len(keys)))})


def part(dataset, seed=0, **sizes):
    def rows(name, names):
        op = Split(part=name, parts=names, **sizes)
        return pa.concat_tables(
            [r.rows for r in op.gather_all(dataset, Context(seed=seed, prepared=op.prepare(dataset)))]
        )

    names = PARTS if len(next(iter(sizes.values()))) == 2 else (*PARTS, "test")
    return [rows(name, names) for name in names]


@settings(max_examples=12)
@given(
    st.lists(st.one_of(st.none(), st.sampled_from("abcdefghij")), min_size=1, max_size=40),
    st.floats(0.1, 0.9),
)
def test_parts_are_disjoint_and_whole(put, keys, share):
    share = round(share, 3)
    parts = part(put(table(keys), (len(keys) // 2,)), shares=(share, round(1 - share, 3)))
    assert sorted(n for rows in parts for n in rows["n"].to_pylist()) == list(range(len(keys)))
    assert not set(parts[0]["prompt_id"].to_pylist()) & set(parts[1]["prompt_id"].to_pylist())


def test_shares_are_about_right_and_stay_when_rows_come(put):
    keys = [f"p{i}" for i in range(2000)]
    few, many = put(table(keys[:1000])), put(table(keys))
    train = [set(part(dataset, shares=(0.8, 0.2))[0]["prompt_id"].to_pylist()) for dataset in (few, many)]
    assert 740 < len(train[0]) < 860
    assert train[0] == train[1] & set(keys[:1000])
    assert part(few, seed=1, shares=(0.8, 0.2))[0]["prompt_id"].to_pylist() != sorted(train[0])


@settings(max_examples=12)
@given(st.integers(2, 40), st.sampled_from([0.001, 0.05, 0.5, 0.999]), st.integers(0, 9))
def test_the_least_is_given_and_no_more(put, count, share, seed):
    """Two rows a key: what shares give stays where it is enough, else one key changes its part."""
    dataset, share = put(table([f"p{i // 2}" for i in range(2 * count)])), round(share, 3)
    sizes = {"shares": (round(1 - share, 3), share)}
    plain, few = (part(dataset, seed, **sizes, **more) for more in ({}, {"least": 1}))
    keys = [[set(rows["prompt_id"].to_pylist()) for rows in parts] for parts in (plain, few)]
    assert len(keys[1][0] | keys[1][1]) == count and not keys[1][0] & keys[1][1]
    assert few == plain if all(keys[0]) else sorted(map(len, keys[1])) == [1, count - 1]


def test_a_single_key_cannot_be_in_both_parts(put):
    with pytest.raises(DataError, match="cut 1 values of prompt_id into train, validation: 1 in each") as fault:
        part(put(table(["a", "a"])), shares=(0.9, 0.1), least=1)
    assert fault.value.slug == "too-few-keys"
    assert Split(part="train", parts=PARTS, shares=(0.9, 0.1)).params().keys() == {
        "part", "parts", "shares", "counts", "key",
    }, "keys of splits without a least stay"  # fmt: skip


def test_counts_are_exact(put):
    dataset = put(table([f"p{i // 2}" for i in range(60)]), (11,))
    train, validation, test = part(dataset, counts=(-1, 7, 3))
    assert [len(set(rows["prompt_id"].to_pylist())) for rows in (train, validation, test)] == [20, 7, 3]
    assert [rows.num_rows for rows in (train, validation, test)] == [40, 14, 6]
    assert train["n"].to_pylist() == sorted(train["n"].to_pylist())
    with pytest.raises(DataError, match="30 values"):
        part(dataset, counts=(20, 11))
    assert [rows.num_rows for rows in part(dataset, counts=(20, 5))] == [40, 10], "the rest is left out"


def test_the_rest_may_be_empty_where_another_part_is_asked_for(put, tmp_path):
    dataset, parts = put(table(list("abcd"))), ("1", "2", "rest")
    made = [
        apply(Split(part=name, parts=parts, counts=(2, 2, -1)), dataset, str(tmp_path / name)).read() for name in "12"
    ]
    assert sorted(key for rows in made for key in rows["prompt_id"].to_pylist()) == list("abcd")
    with pytest.raises(DataError, match="4 values"):
        apply(Split(part="rest", parts=parts, counts=(2, 2, -1)), dataset, str(tmp_path / "rest"))


def test_rows_of_other_parts_are_counted(put, tmp_path):
    dataset = put(table(list("abcd")))
    out = apply(Split(part="train", parts=PARTS, counts=(3, 1)), dataset, str(tmp_path / "o"))
    assert (out.num_rows, out.stats["counts"]) == (3, {"rows.other_parts": 1})


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ({"part": "x", "shares": (0.5, 0.5)}, "must be one of"),
        ({"part": "train"}, "exactly one of"),
        ({"part": "train", "shares": (0.5,)}, "1 sizes for 2 parts"),
        ({"part": "train", "shares": (0.5, 0.6)}, "sum 1"),
        ({"part": "train", "counts": (-1, -1)}, "-1 at most once"),
        ({"part": "train", "counts": (0, 1)}, "not positive"),
    ],
)
def test_settings_are_checked(bad, fault):
    with pytest.raises(ConfigError, match=fault):
        Split(parts=PARTS, **bad)


def halves(dataset, folder, seed=0):
    """Both halves of a dataset, made as a command makes them."""
    ops = [Split(part=name, parts=PARTS, shares=(0.5, 0.5)) for name in PARTS]
    return [apply(op, dataset, f"{folder}/{op.part}", seed=seed) for op in ops]


def test_a_part_is_split_again_as_if_nothing_had_been(put, tmp_path):
    """Twice, with the same seed: 5 % of 1,000 keys are 50, by the binomial distribution 19 .. 81 within 4.5 sigma."""
    dataset = put(table([f"p{i}" for i in range(4000)]))
    for half in halves(dataset, tmp_path):
        for quarter in halves(half, tmp_path / half.url.rpartition("/")[2]):
            assert abs(quarter.num_rows - half.num_rows / 2) < 4.5 * math.sqrt(half.num_rows / 4)
            held_out = part(quarter, shares=(0.95, 0.05))[1].num_rows
            assert abs(held_out - quarter.num_rows * 0.05) < 4.5 * math.sqrt(quarter.num_rows * 0.05 * 0.95)


def test_how_often_rows_were_split_goes_through_what_lies_between(put, tmp_path):
    """The second split of a part is the same of a shuffled part, and of rows that come later."""
    keys = [f"p{i}" for i in range(2000)]
    first = halves(put(table(keys[:1000])), tmp_path / "few")[0]
    more = halves(put(table(keys)), tmp_path / "many")[0]
    shuffled = apply(Shuffle(), more, str(tmp_path / "shuffled"), seed=3)
    assert [one.facts["splits"] for one in (first, more, shuffled)] == [1, 1, 1]
    chosen = [set(part(one, shares=(0.5, 0.5))[0]["prompt_id"].to_pylist()) for one in (first, more, shuffled)]
    assert chosen[0] == chosen[1] & set(keys[:1000]) and chosen[1] == chosen[2]
    mixed = apply(Mix(sources=("a", "b"), epochs=(1.0, 1.0)), [put(table(keys)), first], str(tmp_path / "mixed"))
    assert halves(mixed, tmp_path / "again")[0].facts["splits"] == 2


def test_conversations_go_by_their_first_question(put):
    asked = [("system", "be kind"), ("user", "a"), ("assistant", "x"), ("user", "b")]
    rows = [asked, asked[1:], asked[1:2], asked[3:], [("assistant", "x")], [], [("system", "be kind")]]
    turns = [[{"role": role, "content": text} for role, text in row] for row in rows]
    assert first_question(pa.array(turns, MESSAGES)).to_pylist() == ["a", "a", "a", "b", None, None, None]
    many = [[("user", f"q{n % 60}"), *[("assistant", "y")] * (n // 60)] for n in range(240)]
    table = pa.table({"messages": of_rows(many), "n": list(range(240))})
    given = put(table)
    parts = [
        pa.concat_tables([r.rows for r in op.gather_all(given, Context(seed=2, prepared=op.prepare(given)))])[
            "n"
        ].to_pylist()
        for op in (Split(part=name, parts=PARTS, shares=(0.5, 0.5), key="messages") for name in PARTS)
    ]
    assert sorted(parts[0] + parts[1]) == list(range(240))
    assert not {n % 60 for n in parts[0]} & {n % 60 for n in parts[1]} and min(map(len, parts)) > 40


def test_an_empty_part_is_noted(put, tmp_path):
    op = Split(part="validation", parts=PARTS, shares=(0.999, 0.001))
    made = apply(op, put(table(list("abcd"))), str(tmp_path / "o"))
    assert op.notes(made.manifest) == (
        "part validation of blend.split has no row, the other parts have 4: raise its size",
    )
    assert not op.notes(apply(op, made, str(tmp_path / "p")).manifest), "there was nothing to split"


@pytest.mark.parametrize("shares", [(1.0, 1e-10), (1.0, 5e-10, 4e-10), (1 - 1e-12, 1e-12)])
def test_shares_that_sum_to_one_as_floats_do_are_taken(put, shares):
    given = put(pa.table({"prompt_id": [f"p{n}" for n in range(20)], "n": list(range(20))}))
    parts = tuple("abc"[: len(shares)])
    counts = []
    for part in parts:
        op = Split(part=part, parts=parts, shares=shares, least=1)
        counts.append(sum(r.rows.num_rows for r in op.gather_all(given, Context(prepared=op.prepare(given)))))
    assert counts == [20 - (len(shares) - 1), *[1] * (len(shares) - 1)]
