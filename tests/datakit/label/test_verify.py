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
from tests.datakit.label.corpus import CHOICES, NUMBERS, TEXTS

GOLDS = {"number": "12", "choice": "(B)", "text": "yes"}
EXAMPLES = [
    Example(
        Verify(kind=kind),
        (SAMPLES.conform(SAMPLES.example(10).set_column(3, "answer", pa.array([gold] * 10))),),
    )
    for kind, gold in GOLDS.items()
]


def verdicts(op: Verify, pairs) -> list[bool | None]:
    rows = pa.table(
        {
            "response": pa.array([r for r, _ in pairs], pa.string()),
            "answer": pa.array([g for _, g in pairs], pa.string()),
        }
    )
    labels = op.label(rows, Context())
    known = labels.kept.keep.to_pylist()
    return [
        bool(right) if sure else None for right, sure in zip(labels.columns[op.output].to_pylist(), known, strict=True)
    ]


def test_the_corpus_is_large_enough():
    assert len(NUMBERS) + len(CHOICES) + len(TEXTS) >= 250


@pytest.mark.parametrize(("response", "gold", "right"), NUMBERS, ids=lambda v: repr(v)[:30])
def test_numbers(response, gold, right):
    assert verdicts(Verify(kind="number"), [(response, gold)]) == [right]


@pytest.mark.parametrize(("response", "right"), CHOICES, ids=lambda v: repr(v)[:30])
def test_choices(response, right):
    assert verdicts(Verify(kind="choice"), [(response, gold) for gold in ("B", "(b)", "B) it is")]) == [right] * 3


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
    table = SAMPLES.conform(table.set_column(3, "answer", pa.array(["3", None, "three", "4"])))
    with pytest.raises(DataError, match=r"error\[10/gold-not-readable\]: label.verify rejected 2 of the first 4 rows"):
        apply(Verify(kind="number"), put(table), str(tmp_path / "out"))
    out = apply(Verify(kind="number"), put(table), str(tmp_path / "out"), max_rejected=2)
    assert out.stats["rejected"] == {"gold-not-readable": 2}
    assert out.num_rows == 2


def test_verdicts_stand_side_by_side_with_what_was_read(put, tmp_path):
    table = SAMPLES.conform(SAMPLES.example(2).set_column(3, "answer", pa.array(["0", "7"])))
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
    [
        {"kind": "choice", "choices": "AB1"},
        {"kind": "choice", "choices": ""},
        {"kind": "choice", "choices": "ab"},
        {"kind": "number", "tolerance": -1.0},
        {"kind": "number", "tolerance": 1.0},
        {"kind": "numbr"},
        {"kind": "number", "settings": {"pattern": "a"}},
        {"kind": "regex", "settings": {"pattern": "("}},
    ],
)
def test_settings_are_checked(settings):
    with pytest.raises(ConfigError, match=r"bad-setting|unknown-key") as fault:
        Verify(**settings)
    assert "label.verify" in fault.value.where


def test_a_kind_that_is_not_there_is_answered_with_the_nearest():
    with pytest.raises(ConfigError) as fault:
        Verify(kind="numbr")
    assert fault.value.nearest == "number" and "regex" in fault.value.expected


def test_no_text_is_run(monkeypatch):
    monkeypatch.setattr(os, "system", lambda _: pytest.fail("text was run"))
    assert verdicts(Verify(kind="number"), [("__import__('os').system('true')", "0")]) == [False]
