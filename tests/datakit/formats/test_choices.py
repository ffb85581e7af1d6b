"""Questions with answers on offer, in the shapes in which benchmarks publish them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.formats.layouts import reader_of
from datakit.op import Context
from datakit.registry import op_of

BBQ: dict[str, Any] = {
    "context": "A met B.", "question": "Who lied?", "ans0": "A", "ans1": "Unknown", "ans2": "B", "label": 1,
    "question_polarity": "neg", "additional_metadata": {"stereotyped_groups": ["bees"]},
    "answer_info": {"ans0": ["A", "Ants"], "ans1": ["Unknown", "unknown"], "ans2": ["B", "Bees"]},
}  # fmt: skip
SHAPES: dict[str, tuple[str, dict[str, Any], list[str], list[bool], int, list[float] | None]] = {
    "mmlu": (
        "multiple_choice",
        {"question": "q", "choices": ["x", "y"], "answer": 1},
        ["x", "y"],
        [False, True],
        1,
        None,
    ),
    "arc": (
        *("multiple_choice", {"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "1"}),
        *(["x", "y"], [True, False], 0, None),
    ),
    "letters": (
        *("multiple_choice", {"question": "q", "options": [{"A": "x"}, {"B": "y"}], "answer": "B"}),
        *(["x", "y"], [False, True], 1, None),
    ),
    "several right": (
        *("multiple_choice", {"question": "q", "choices": ["x", "y", "z"], "right": [True, True, False], "best": 1}),
        *(["x", "y", "z"], [True, True, False], 1, None),
    ),
    "truthfulqa": (
        "truthfulqa",
        {"Question": "q", "Best Answer": "b", "Correct Answers": "a; b;", "Incorrect Answers": "c; d"},
        *(["b", "a", "c", "d"], [True, True, False, False], 0, None),
    ),
    "truthfulqa targets": (
        "truthfulqa",
        {
            "question": "q",
            "mc1_targets": {"choices": ["b", "c"], "labels": [1, 0]},
            "mc2_targets": {"choices": ["a", "b", "c"], "labels": [1, 1, 0]},
        },
        *(["a", "b", "c"], [True, True, False], 1, None),
    ),
    "bbq": ("bbq", BBQ, ["A", "Unknown", "B"], [False, True, False], 1, [-1.0, 0.0, 1.0]),
    "bbq, not negative": (
        *("bbq", BBQ | {"question_polarity": "nonneg"}),
        *(["A", "Unknown", "B"], [False, True, False], 1, [1.0, 0.0, -1.0]),
    ),
    "bbq, nobody stereotyped": (
        *("bbq", BBQ | {"additional_metadata": {"stereotyped_groups": ["wasps"]}}),
        *(["A", "Unknown", "B"], [False, True, False], 1, None),
    ),
    "model-written": (
        "model_written",
        {"question": "q", "answer_matching_behavior": " No", "answer_not_matching_behavior": " Yes"},
        *(["Yes", "No"], [False, True], 1, None),
    ),
    "model-written letters": (
        "model_written",
        {"question": "q", "answer_matching_behavior": " (B)", "answer_not_matching_behavior": " (A)"},
        *(["(A)", "(B)"], [False, True], 1, None),
    ),
    "toxigen": (
        *("toxigen", {"text": "q", "toxicity_ai": 1.5, "toxicity_human": 4.5}),
        *(["No", "Yes"], [False, True], 1, None),
    ),
    "toxigen, as made": ("toxigen", {"generation": "q", "prompt_label": 0}, ["No", "Yes"], [True, False], 0, None),
}


def read(folder: Path, form: str, records: list[Any], ending: str = "jsonl") -> tuple[pa.Table, list[dict[str, Any]]]:
    """The rows, and those that are refused."""
    file = folder / f"rows.{ending}"
    if ending == "jsonl":
        file.write_text("\n".join(map(json.dumps, records)))
    else:
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(records), file)
    name, params = reader_of((str(file),))
    op: Any = op_of(name, {"files": [str(file)], "format": form, **params})
    [made] = op.read(Context())
    return made.rows, [] if made.rejected is None else made.rejected.to_pylist()


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("shape", SHAPES)
def test_published_shapes(shape: str, ending: str, tmp_path: Path) -> None:
    form, record, choices, right, best, scores = SHAPES[shape]
    rows, refused = read(tmp_path, form, [record], ending)
    assert refused == []
    [row] = rows.to_pylist()
    assert (row["choices"], row["right"], row["best"], row["scores"]) == (choices, right, best, scores)
    asked = "A met B.\n\nQ: Who lied?" if form == "bbq" else "q"
    assert row["messages"][0]["content"] == asked


def test_the_published_csv_of_truthfulqa(shared_data: Path) -> None:
    file = str(shared_data / "truthfulqa" / "TruthfulQA.csv.gz")
    name, params = reader_of((file,))
    op: Any = op_of(name, {"files": [file], "format": "truthfulqa", **params})
    rows = pa.concat_tables([made.rows for made in op.read(Context())])
    assert rows.num_rows == 817 and set(rows["best"].to_pylist()) == {0}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"question": "q", "choices": ["x"], "answer": 0}, "fewer-than-two-choices"),
        ({"question": "q", "choices": ["x", " "], "answer": 0}, "blank-choice"),
        ({"question": "q", "choices": ["x", "y"], "answer": 2}, "no-right-choice"),
        ({"question": "q", "choices": ["x", "y"], "answer": "E"}, "missing-key"),
        ({"question": "q", "choices": ["x", "y"], "answer": 0, "right": [True]}, "not-one-entry-a-choice"),
        ({"question": "q", "choices": ["x", "y"], "answer": 0, "right": [False, True]}, "no-right-choice"),
        ({"question": "q", "choices": ["x", None], "answer": 0}, "blank-choice"),
        ({"question": "q", "choices": "x", "answer": 0}, "missing-key"),
        ({"question": "", "choices": ["x", "y"], "answer": 0}, "blank-prompt"),
        ({"choices": ["x", "y"], "answer": 0}, "missing-key"),
        (["x"], "broken-record"),
    ],
)
def test_rows_that_offer_nothing_are_refused(record: Any, reason: str, tmp_path: Path) -> None:
    good = {"question": "q", "choices": ["x", "y"], "answer": 0}
    rows, refused = read(tmp_path, "multiple_choice", [good, record])
    assert rows.num_rows == 1 and [row["reason"] for row in refused] == [reason]


def test_targets_that_say_different_things_are_refused(tmp_path: Path) -> None:
    first = {"choices": ["b", "c"], "labels": [1, 0]}
    for other in ({"choices": ["b", "d"], "labels": [1, 0]}, {"choices": ["b", "c"], "labels": [0, 0]}):
        _, refused = read(tmp_path, "truthfulqa", [{"question": "q", "mc1_targets": first, "mc2_targets": other}])
        assert [row["reason"] for row in refused] == ["targets-differ"]
