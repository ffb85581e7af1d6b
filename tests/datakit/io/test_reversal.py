"""The embedded task: distinct prompts, right answers, exactly the wrong share, ranges that do not meet."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from datakit.io import Reversal
from datakit.io.reversal import permuted
from datakit.op import Context
from schemas.errors import ConfigError


def rows(**settings: object) -> list[dict]:
    results = Reversal(**settings).read(Context(seed=3))
    return pa.concat_tables([result.rows for result in results]).to_pylist()


def test_prompts_hold_their_answer_reversed() -> None:
    for row in rows(rows=50, digits=4):
        number = row["messages"][0]["content"].removeprefix("Reverse the digits: ")
        assert len(number) == 4
        assert row["answer"] == number[::-1]


def test_ranges_never_share_a_prompt_and_together_are_all_numbers() -> None:
    train, held_out = rows(rows=600, digits=3), rows(rows=400, digits=3, first=600)
    one, other = ({row["prompt_id"] for row in part} for part in (train, held_out))
    assert (len(one), len(other), one & other) == (600, 400, set())
    assert len({row["answer"] for row in train + held_out}) == 1000


@pytest.mark.parametrize(("share", "wrong"), [(0.0, 0), (0.3, 30), (0.555, 56), (1.0, 100)])
def test_exactly_the_share_is_wrong_and_wrong_answers_are_near(share: float, wrong: int) -> None:
    demonstrations = rows(rows=100, digits=5, output="demonstrations", wrong_share=share)
    differ = [sum(a != b for a, b in zip(row["answer"], row["response"], strict=True)) for row in demonstrations]
    assert sum(count > 0 for count in differ) == wrong
    assert max(differ) <= 2


def test_same_settings_same_rows_another_seed_others() -> None:
    assert rows(rows=20, output="demonstrations", wrong_share=0.5) == rows(
        rows=20, output="demonstrations", wrong_share=0.5
    )
    assert rows(rows=20) != rows(rows=20, seed=1)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000, 4097])
def test_the_permutation_is_one(size: int) -> None:
    assert sorted(permuted(np.arange(size, dtype=np.uint64), size, 5).tolist()) == list(range(size))


def test_one_digit_and_eighteen() -> None:
    assert {row["answer"] for row in rows(rows=10, digits=1)} == set("0123456789")
    assert {len(row["answer"]) for row in rows(rows=10, digits=18)} == {18}


@pytest.mark.parametrize(
    "settings",
    [
        {"rows": 1001, "digits": 3},
        {"digits": 0},
        {"digits": 19},
        {"rows": 0},
        {"first": -1},
        {"wrong_share": 0.5},
        {"output": "demonstrations", "wrong_share": 1.5},
        {"text": "no number"},
    ],
)
def test_wrong_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ConfigError):
        Reversal(**settings)
