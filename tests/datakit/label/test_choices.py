"""label.choices: picks, MC1, MC2, `acc_norm`, worked by hand; questions that lack a choice."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from datakit.blend import Choices as Offers
from datakit.label import Choices
from datakit.op import Context
from schemas import CHOICES, Column
from schemas.errors import ConfigError
from tests.datakit.blend.test_choices import QUESTIONS
from tests.datakit.fakes import Example

OFFERED = Offers().gives(CHOICES)
OFFERS = OFFERED.conform(Offers().gather(QUESTIONS, Context()).rows)
SCORED = OFFERED.adding(Column("logprob", pa.float64(), "of the choice"))


def offers(*logprobs: float) -> pa.Table:
    return SCORED.conform(OFFERS.append_column("logprob", pa.array(logprobs, pa.float64())))


EXAMPLES = [
    Example(Choices(), (offers(-1, -2, -3, -5, -1),)),
    Example(Choices(along=("source",)), (offers(-1, -2, -3, math.nan, -1),)),
]


def test_picks_and_probabilities():
    op = Choices()
    made = op.gather(offers(-1.0, -2.0, -3.0, -0.5, -1.0), Context())
    rows = op.gives(SCORED).check(made.rows)
    assert made.rejected is None
    assert rows["prompt_id"].to_pylist() == ["sum", "sky"]
    assert rows["sample_id"].to_pylist() == ["sum-0", "sky-0"] and rows["pick"].to_pylist() == [0, 0]
    assert rows["choice_logprobs"].to_pylist() == [[-1.0, -2.0, -3.0], [-0.5, -1.0]]
    whole = math.exp(-1) + math.exp(-2) + math.exp(-3)
    assert rows["right_mass"].to_pylist() == pytest.approx([math.exp(-2) / whole, 1.0], abs=1e-15)
    assert rows["correct"].to_pylist() == [0.0, 1.0], "red is right as well: blue has no wrong rival"
    assert rows["pick_score"].to_pylist() == [0.5, None]


def test_a_long_wrong_choice_wins_by_its_length_alone():
    rows = Choices().gather(offers(-9.0, -2.0, -4.0, -1.0, -1.0), Context()).rows
    assert rows["correct"].to_pylist()[0] == 1.0, "-2 is the greatest"
    assert rows["correct_norm"].to_pylist()[0] == 0.0, "-4 over 4 characters is more than -2 over 1"


def test_equal_choices_go_to_the_first():
    rows = Choices().gather(offers(-1.0, -1.0, -1.0, -1.0, -1.0), Context()).rows
    assert rows["pick"].to_pylist() == [0, 0] and rows["correct"].to_pylist() == [0.0, 1.0]


def test_tiny_probabilities_are_not_zero():
    rows = Choices().gather(offers(-3000.0, -3001.0, -3002.0, -1.0, -1.0), Context()).rows
    whole = 1 + math.exp(-1) + math.exp(-2)
    assert rows["right_mass"].to_pylist()[0] == pytest.approx(math.exp(-1) / whole, abs=1e-15)


@pytest.mark.parametrize("lost", ["not there", "not finite"])
def test_a_question_that_lacks_a_choice_is_set_aside_whole(lost: str):
    rows = offers(-1.0, math.inf if lost == "not finite" else -2.0, -3.0, -5.0, -1.0)
    made = Choices().gather(rows if lost == "not finite" else rows.filter([True, False, True, True, True]), Context())
    assert made.rows["prompt_id"].to_pylist() == ["sky"]
    assert made.rejected is not None and set(made.rejected["reason"].to_pylist()) == {"choice-missing"}
    assert set(made.rejected["prompt_id"].to_pylist()) == {"sum"}


def test_the_order_of_rows_is_nothing():
    rows = offers(-1.0, -2.0, -3.0, -5.0, -1.0)
    turned = Choices().gather(rows.take([3, 4, 2, 1, 0]), Context()).rows.sort_by("prompt_id")
    assert turned == Choices().gather(rows, Context()).rows.sort_by("prompt_id")


def test_columns_that_are_not_there_are_named():
    with pytest.raises(ConfigError, match="subjekt"):
        Choices(along=("subjekt",)).gives(SCORED)
