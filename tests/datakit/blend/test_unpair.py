"""blend.unpair: which answers come out, in which order, under which ids."""

from __future__ import annotations

import pytest

from datakit.blend import Unpair
from datakit.op import Context
from schemas import COMPLETIONS, PREFERENCES
from tests.datakit.fakes import Example

EXAMPLES = [Example(Unpair(), (PREFERENCES.example(),))]


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
