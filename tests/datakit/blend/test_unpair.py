"""blend.unpair: which answers come out, in which order, under which ids."""

from __future__ import annotations

import pytest

from datakit.blend import Unpair
from datakit.op import Context
from schemas import COMPLETIONS, FEEDBACK, PREFERENCES
from tests.datakit.fakes import Example

EXAMPLES = [Example(op, (PREFERENCES.example(),)) for op in (Unpair(), Unpair(desirable=True))]


@pytest.mark.parametrize(
    ("sides", "ids"),
    [
        ("chosen", ["pair_id 0-chosen", "pair_id 1-chosen"]),
        ("rejected", ["pair_id 0-rejected", "pair_id 1-rejected"]),
        ("both", ["pair_id 0-chosen", "pair_id 0-rejected", "pair_id 1-chosen", "pair_id 1-rejected"]),
    ],
)
def test_each_side_is_a_row(sides, ids):
    rows = COMPLETIONS.check(Unpair(sides=sides).gather(PREFERENCES.example(2), Context()).rows)
    assert rows["sample_id"].to_pylist() == ids
    texts = [f"{name.rsplit('-')[1]} {name.split()[1][0]}" for name in ids]
    assert rows["response"].to_pylist() == texts


def test_no_pairs_no_answers():
    assert Unpair().gather(PREFERENCES.empty(), Context()).rows.num_rows == 0


def test_each_answer_says_whether_it_is_wanted():
    op = Unpair(desirable=True)
    rows = FEEDBACK.check(op.gather(PREFERENCES.example(2), Context()).rows)
    assert rows["desirable"].to_pylist() == [True, False, True, False]
    plain = Unpair().gather(PREFERENCES.example(2), Context()).rows
    assert rows.select(COMPLETIONS.names).to_pylist() == plain.select(COMPLETIONS.names).to_pylist()


def test_a_setting_that_came_later_leaves_older_keys_alone():
    assert Unpair(sides="chosen").params() == {"sides": "chosen"}
    assert Unpair(desirable=True).params() == {"sides": "both", "desirable": True}
