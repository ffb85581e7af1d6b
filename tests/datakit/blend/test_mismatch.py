"""blend.mismatch: another question's answer beside every answer, whatever repeats and however rows lie."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datakit.apply import apply
from datakit.blend import Mismatch
from datakit.blend.mismatch import _partners
from schemas import COMPLETIONS, FEEDBACK
from schemas.errors import ConfigError
from tests.datakit.fakes import Example


def answers(*rows: tuple[str, str]) -> pa.Table:
    """FEEDBACK rows of (question, answer)."""
    table = FEEDBACK.example(len(rows)).to_pylist()
    for number, (row, (prompt, response)) in enumerate(zip(table, rows, strict=True)):
        row |= {"sample_id": f"s{number}", "prompt_id": prompt, "response": response}
    return pa.Table.from_pylist(table, schema=FEEDBACK.arrow)


def pairs(count: int) -> pa.Table:
    """Two answers to each of `count` questions."""
    return answers(*[(f"p{i // 2}", f"answer {i}") for i in range(2 * count)])


EXAMPLES = [Example(Mismatch(), (pairs(5),)), Example(Mismatch(column="other"), (answers(("p", "a"), ("q", "a")),))]


def matched(put, tmp_path, table, seed=0, **settings):
    return apply(Mismatch(**settings), put(table), str(tmp_path / f"out-{seed}"), seed=seed)


def test_every_answer_goes_to_another_question_once(put, tmp_path):
    table = pairs(200)
    out = matched(put, tmp_path, table)
    rows = out.read().to_pylist()
    prompt_of = dict(zip(*(table[name].to_pylist() for name in ("response", "prompt_id")), strict=True))
    assert len(rows) == 400 and sum(file.rows for file in out.rejected) == 0
    assert all(prompt_of[row["mismatched"]] != row["prompt_id"] for row in rows)
    assert set(Counter(row["mismatched"] for row in rows).values()) == {1}
    assert [row["sample_id"] for row in rows] == table["sample_id"].to_pylist(), "rows keep their order"


def test_the_choice_follows_the_seed_and_not_the_order(put, tmp_path):
    table = pairs(30)
    order = np.random.default_rng(5).permutation(table.num_rows)
    first, again, other = (
        dict(zip(*(out.read()[name].to_pylist() for name in ("sample_id", "mismatched")), strict=True))
        for out in (
            matched(put, tmp_path / "a", table),
            matched(put, tmp_path / "b", table.take(pa.array(order))),
            matched(put, tmp_path / "c", table, seed=1),
        )
    )
    assert first == again and first != other


def test_an_answer_of_the_same_text_is_its_own(put, tmp_path):
    out = matched(put, tmp_path, answers(*[(f"p{i}", "yes") for i in range(9)], ("p9", "no")))
    assert {(row["response"], row["mismatched"]) for row in out.read().to_pylist()} == {("yes", "no"), ("no", "yes")}


def test_a_row_without_another_answer_is_set_aside(put, tmp_path):
    out = matched(put, tmp_path, answers(("p", "a"), ("p", "b"), ("q", "a")))
    assert out.read().select(["sample_id", "mismatched"]).to_pylist() == [
        {"sample_id": "s1", "mismatched": "a"},
        {"sample_id": "s2", "mismatched": "b"},
    ]
    rejected = out.read_rejected().to_pylist()
    assert [(row["sample_id"], row["reason"]) for row in rejected] == [("s0", "no-other-answer")]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=25))
def test_whoever_can_have_an_answer_gets_one(rows):
    """Against a search through all pairs of rows."""
    rows = sorted(rows, key=lambda row: row[0])
    prompt, text = (np.array([row[i] for row in rows], np.uint64) for i in (0, 1))
    for row, place in zip(rows, _partners(prompt, text).tolist(), strict=True):
        able = any(prompt != row[0] and answer != row[1] for prompt, answer in rows)
        assert (place >= 0) == able
        assert not able or (rows[place][0] != row[0] and rows[place][1] != row[1])


@pytest.mark.parametrize("column", ["", "response", "prompt_id"])
def test_the_new_column_is_new(column):
    assert column == "" or column in COMPLETIONS
    with pytest.raises(ConfigError, match="column must be a new one"):
        Mismatch(column=column)
