r"""label.verify against a hostile corpus: how models write answers, and what they must not get away with."""

from __future__ import annotations

import os

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.label import Verify
from datakit.op import Context
from schemas import SAMPLES
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example

GOLDS = {"number": "12", "choice": "(B)", "text": "yes"}
EXAMPLES = [
    Example(
        Verify(kind=kind),
        (SAMPLES.conform(SAMPLES.example(10).set_column(2, "answer", pa.array([gold] * 10))),),
    )
    for kind, gold in GOLDS.items()
]

NUMBERS = [  # response, gold, is it right
    ("18", "18", True),
    ("The answer is 18.", "18", True),
    ("#### 18", "18", True),
    ("18!", "18", True),
    ("**18**", "18", True),
    ("__18__", "18", True),
    ("*18*", "18", True),
    ("`18`", "18", True),
    ("(18)", "18", True),
    ("[18]", "18", True),
    ('"18"', "18", True),
    ("=18", "18", True),
    ("x=18", "18", True),
    ("x = 18,", "18", True),
    ("18\n", "18", True),
    ("\u200b18\u200b", "18", True),
    ("\uff11\uff18", "18", True),
    ("18,", "18", True),
    ("18;", "18", True),
    ("$18", "18", True),
    ("\\$18", "18", True),
    ("$18$", "18", True),
    ("18$", "18", True),
    ("€18", "18", True),
    ("USD 18", "18", True),
    ("USD18", "18", True),
    ("18 USD", "18", True),
    ("18%", "18", True),
    ("18\\%", "18", True),
    ("18 apples", "18", True),
    ("18km", "18", True),
    ("18 m^2", "18", True),
    ("18 m²", "18", True),
    ("18 cm^{2}", "18", True),
    ("18 m2", "18", True),
    ("18 °C", "18", True),
    ("18th", "18", True),
    ("He had 20, ate 2, so 18", "18", True),
    ("3*6=18", "18", True),
    ("20-2=18", "18", True),
    ("36/2 = 18", "18", True),
    ("18.0", "18", True),
    ("18.", "18", True),
    ("018", "18", True),
    ("+18", "18", True),
    ("1.8e1", "18", True),
    ("1.8E+1", "18", True),
    ("1.8 \\times 10^1", "18", True),
    ("1.8 \xd7 10^{1}", "18", True),
    ("1.8*10^1", "18", True),
    ("180 x 10^-1", "18", True),
    ("36/2", "18", True),
    ("\\frac{36}{2}", "18", True),
    ("\\dfrac{36}{2}", "18", True),
    ("18\\text{ cm}", "18", True),
    ("18 \\mathrm{m}^2", "18", True),
    ("\\boxed{18}", "18", True),
    ("\\fbox{7} \\boxed{18}", "18", True),
    ("\\boxed{7}, no: \\boxed{18}", "18", True),
    ("\\boxed{18} in 3 steps", "18", True),
    ("\\boxed {18}", "18", True),
    ("\\boxed{\\text{18}}", "18", True),
    ("\\boxed{x = 18}", "18", True),
    ("\\boxed{18\\text{ cm}^2}", "18", True),
    ("\\boxed{\\$18}", "18", True),
    ("\\boxed{\\mathbf{18}}", "18", True),
    ("$$\\boxed{18}$$", "18", True),
    ("\\fboxed{18}", "18", True),
    ("-18", "-18", True),
    ("\u221218", "-18", True),
    ("\u201318", "-18", True),
    ("\uff0d18", "-18", True),
    ("-$18", "-18", True),
    ("$-18", "-18", True),
    ("x=-18", "-18", True),
    ("is: -18.", "-18", True),
    ("\\boxed{-18}", "-18", True),
    ("(-18)", "-18", True),
    ("2 - 20 = -18", "-18", True),
    ("- 18", "-18", False),
    ("20-18", "-18", False),
    ("20-18", "18", True),
    ("3-5", "5", True),
    ("1,234", "1234", True),
    ("1234", "1,234", True),
    ("1,234,567", "1234567", True),
    ("1,234.50", "1234.5", True),
    ("1{,}234", "1234", True),
    ("1\\,234", "1234", True),
    ("1\u202f234", "1234", True),
    ("1\u00a0234", "1234", True),
    ("$1,234.00", "1234", True),
    ("1,234,567.", "1234567", True),
    ("12,34", "1234", False),
    ("1,2345", "12345", False),
    ("1.234,56", "1234.56", False),
    ("1,,234", "1234", False),
    ("1.2.3", "3", False),
    ("1.2.3", "1.2", False),
    ("0.5", "1/2", True),
    (".5", "0.5", True),
    ("1/2", "0.5", True),
    ("-1/2", "-0.5", True),
    ("\\frac12", "0.5", True),
    ("\\frac{1}{2}", "1/2", True),
    ("-\\frac{1}{2}", "-1/2", True),
    ("\\frac{-1}{2}", "-1/2", True),
    ("½", "0.5", True),
    ("2 1/2", "2.5", True),
    ("2½", "2.5", True),
    ("2\\frac{1}{2}", "2.5", True),
    ("-2 1/2", "-2.5", True),
    ("1 / 2", "0.5", True),
    ("1\u20442", "0.5", True),
    ("\\boxed{\\frac{1}{2}}", "0.5", True),
    ("\\boxed{\\frac{1}{2}}", "2", False),
    ("3/0", "3", False),
    ("3/0", "0", False),
    ("1/2/3", "3", False),
    ("12/05/2024", "2024", False),
    ("1/3", "0.333333333333333", True),
    ("1/3", "0.333", False),
    ("0.333", "1/3", False),
    ("2/3", "0.6667", False),
    ("1,000/2", "500", True),
    ("6/3", "2", True),
    ("0", "0", True),
    ("-0", "0", True),
    ("0.00", "0", True),
    ("000", "0", True),
    ("0.1", "0", False),
    ("1e-400", "0", True),
    ("9007199254740993", "9007199254740992", False),
    ("9007199254740993", "9007199254740993", True),
    ("1000000000000000000001", "1000000000000000000000", False),
    ("0.1000000000000000055", "0.1", True),
    ("1e999", "1e999", None),
    ("1000000001", "1000000000", False),
    ("1000000000.5", "1000000000", True),
    ("inf", "18", False),
    ("nan", "18", False),
    ("NaN", "18", False),
    ("Infinity", "18", False),
    ("1e999", "18", False),
    ("9" * 400, "18", False),
    ("eighteen", "18", False),
    ("", "18", False),
    (" ", "18", False),
    ("none", "18", False),
    ("\x00", "18", False),
    ("18\x0018", "18", True),
    ("18 or 19", "18", False),
    ("19 or 18", "18", True),
    ("\\boxed{18, 19}", "18", False),
    ("\\boxed{18, 19}", "19", False),
    ("\\boxed{18 or 19}", "19", False),
    ("\\boxed{}", "18", False),
    ("18 \\boxed{}", "18", False),
    ("18 \\boxed{?}", "18", False),
    ("18 \\boxed{19", "19", False),
    ("18 \\boxed{", "18", False),
    ("\\boxed{{{{{18}}}}}", "18", False),
    ("}18{", "18", True),
    ("\\boxed{(3, 18)}", "18", False),
    ("\\boxed{17}\\boxed{18}", "17", False),
    ("\\boxed{18^2}", "18", False),
    ("2^18", "18", False),
    ("18^2", "18", False),
    ("\\sqrt{18}", "18", False),
    ("√18", "18", False),
    ("3\\sqrt{18}", "18", False),
    ("18\\sqrt{2}", "18", False),
    ("18\\pi", "18", False),
    ("18π", "18", False),
    ("3:18", "18", False),
    ("18:1", "18", False),
    ("1_8", "18", False),
    ("H18", "18", False),
    ("GPT18", "18", False),
    ("x_{18}", "18", False),
    ("x_18", "18", False),
    ("m^18", "18", False),
    ("0x18", "18", False),
    ("v1.18", "18", False),
    ("v1.18", "1.18", False),
    ("1.18.0", "18", False),
    ("٣", "3", False),
    ("18" + " " * 5000, "18", True),
    ("(" * 3000 + "18", "18", True),
    ("{" * 3000 + "18", "18", True),
    ("1" * 3000, "18", False),
    ("\\boxed{" * 500 + "18" + "}" * 500, "18", True),
    ("18 is what __import__('os').system('x') gives: 18", "18", True),
    ("__import__('os').getpid()", "18", False),
    ("9+9", "18", False),
    ("9+9", "9", True),
    ("2*9", "18", False),
    ("lambda: 18", "18", True),
]

CHOICES = [  # response, is B chosen
    ("B", True),
    ("b", True),
    ("(B)", True),
    ("B.", True),
    ("**B**", True),
    ("B) 42", True),
    ("B. because", True),
    ("B: because", True),
    ("The answer is B.", True),
    ("The answer is (b).", True),
    ("Answer: B", True),
    ("answer: b", True),
    ("Answer:\n\nB", True),
    ("\\boxed{B}", True),
    ("\\boxed{\\text{B}}", True),
    ("\\boxed{(B)}", True),
    ("So the correct option is: **B**", True),
    ("I choose B", True),
    ("The correct answer is option B, not A", True),
    ("The answer is A. Wait, the answer is B.", True),
    ("A is wrong. The answer is B because A is false", True),
    ("(A) is wrong\nAnswer: (B)", True),
    ("I think it is (B)", True),
    ("Answer: $B$", True),
    ("ANSWER: B", True),
    ('The answer is: "B"', True),
    ("Answer = B", True),
    ("The answer is B, a good one", True),
    ("A", False),
    ("The answer is A", False),
    ("The answer is A or B", False),
    ("Answer: A/B", False),
    ("Answer: (A), (B)", False),
    ("\\boxed{A, B}", False),
    ("\\boxed{AB}", False),
    ("\\boxed{}", False),
    ("(A) x (B) y", False),
    ("Both", False),
    ("", False),
    ("Bob", False),
    ("The answer is Bob", False),
    ("the answer is a boy", False),
    ("A boy has 3 balls", False),
    ("E", False),
    ("The answer is BC", False),
    ("Answer: F", False),
    ("The answer is B and C", False),
    ("The answer is B. Wait, the answer is C.", False),
    ("B \\boxed{C}", False),
    ("I would not say", False),
]

TEXTS = [  # response, gold, normalised, strict
    ("yes", "yes", True, True),
    ("Yes", "yes", True, False),
    ("YES.", "yes", True, False),
    (" yes\n", "yes", True, False),
    ("'yes'", "yes", True, False),
    ("“Yes!”", "yes", True, False),
    ("**yes**", "yes", True, False),
    ("\\boxed{yes}", "yes", True, False),
    ("new  york", "New York", True, False),
    ("new\u00a0york", "new york", True, False),
    ("ﬁne", "fine", True, False),
    ("\uff39\uff45\uff53", "yes", True, False),
    ("é", "e\u0301", True, False),
    ("y\u200bes", "yes", True, False),
    ("no", "yes", False, False),
    ("yes it is", "yes", False, False),
    ("", "yes", False, False),
    ("...", "yes", False, False),
    ("-5", "5", False, False),
    ("c++", "c", False, False),
    ("yes no", "yesno", False, False),
]


def verdicts(op: Verify, pairs) -> list[bool | None]:
    rows = pa.table(
        {
            "response": pa.array([r for r, _ in pairs], pa.string()),
            "answer": pa.array([g for _, g in pairs], pa.string()),
        }
    )
    told = op.label(rows, Context())
    known = told.kept.keep.to_pylist()
    return [
        bool(right) if sure else None
        for right, sure in zip(told.columns[op.output].to_pylist(), known, strict=True)
    ]


def test_the_corpus_is_large_enough():
    assert len(NUMBERS) + len(CHOICES) + len(TEXTS) >= 250


@pytest.mark.parametrize(("response", "gold", "right"), NUMBERS, ids=lambda v: repr(v)[:30])
def test_numbers(response, gold, right):
    assert verdicts(Verify(kind="number"), [(response, gold)]) == [right]


@pytest.mark.parametrize(("response", "right"), CHOICES, ids=lambda v: repr(v)[:30])
def test_choices(response, right):
    assert (
        verdicts(Verify(kind="choice"), [(response, gold) for gold in ("B", "(b)", "B) it is")])
        == [right] * 3
    )


@pytest.mark.parametrize(("response", "gold", "normal", "strict"), TEXTS, ids=lambda v: repr(v)[:30])
def test_texts(response, gold, normal, strict):
    assert verdicts(Verify(kind="text"), [(response, gold)]) == [normal]
    assert verdicts(Verify(kind="text", strict=True), [(response, gold)]) == [strict]


def test_a_column_at_once_gives_what_rows_give():
    pairs = [(response, gold) for response, gold, _ in NUMBERS]
    assert verdicts(Verify(kind="number"), pairs) == [right for *_, right in NUMBERS]


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("12 + 6 #### 18 (in step 3)", True),
        ("#### 17 #### 18", True),
        ("18", False),
        ("#### ", False),
        ("#### 17, 18", False),
        ("####18", True),
        ("#### \\boxed{18}", True),
    ],
)
def test_behind_a_mark_the_first_number_counts(response, right):
    assert verdicts(Verify(kind="number", after="####"), [(response, "18")]) == [right]


@pytest.mark.parametrize(("tolerance", "right"), [(1e-9, False), (1e-2, True), (0.0, False)])
def test_tolerance_is_relative_and_never_for_whole_numbers(tolerance, right):
    op = Verify(kind="number", tolerance=tolerance)
    assert verdicts(op, [("0.333", "1/3"), ("1001", "1000")]) == [right, False]


def test_a_gold_answer_that_cannot_be_read_is_set_aside_not_guessed(put, tmp_path):
    table = SAMPLES.example(4)
    table = SAMPLES.conform(table.set_column(2, "answer", pa.array(["3", None, "three", "4"])))
    with pytest.raises(
        DataError, match=r"error\[10/gold-not-readable\]: label.verify rejected 2 of the first 4 rows"
    ):
        apply(Verify(kind="number"), put(table), str(tmp_path / "out"))
    out = apply(Verify(kind="number"), put(table), str(tmp_path / "out"), max_rejected=2)
    assert out.stats["rejected"] == {"gold-not-readable": 2}
    assert out.num_rows == 2


def test_verdicts_stand_side_by_side_with_what_was_read(put, tmp_path):
    table = SAMPLES.conform(SAMPLES.example(2).set_column(2, "answer", pa.array(["0", "7"])))
    first = apply(Verify(kind="number"), put(table), str(tmp_path / "1"))
    both = apply(Verify(kind="text", output="exact"), first, str(tmp_path / "2")).read()
    assert both.select(["correct", "correct_read", "exact", "exact_read"]).to_pylist() == [
        {"correct": 1.0, "correct_read": "0", "exact": 0.0, "exact_read": "response 0"},
        {"correct": 0.0, "correct_read": "1", "exact": 0.0, "exact_read": "response 1"},
    ]


def test_other_letters():
    assert verdicts(Verify(kind="choice", choices="XYZ"), [("The answer is Y", "Y"), ("B", "Y")]) == [
        True,
        False,
    ]


@pytest.mark.parametrize(
    "settings",
    [{"choices": "AB1"}, {"choices": ""}, {"choices": "ab"}, {"tolerance": -1.0}, {"tolerance": 1.0}],
)
def test_settings_are_checked(settings):
    with pytest.raises(ConfigError, match="bad-setting"):
        Verify(kind="number", **settings)


def test_no_text_is_run(monkeypatch):
    monkeypatch.setattr(os, "system", lambda _: pytest.fail("text was run"))
    assert verdicts(Verify(kind="number"), [("__import__('os').system('true')", "0")]) == [False]
