"""label.human: marks meet their samples; what cannot be stands beside with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.blend import Pair, PairAnswer
from datakit.filter import Where
from datakit.io import Csv, Jsonl
from datakit.label import Human
from schemas import MARKS, SAMPLES, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError, QuiverError
from tests.datakit.fakes import Example

DRAWN = SAMPLES.selecting("prompt_id", "messages", "sample_id", "sample_index", "response").renamed(
    "samples", key=("sample_id",)
)


def drawn() -> pa.Table:
    """Two answers to each of three prompts."""
    ids = [f"{prompt}{index}" for prompt in "abc" for index in range(2)]
    turns = [[{"role": "user", "content": f"question {one[0]}"}] for one in ids]
    rows = {
        "prompt_id": [one[0] for one in ids],
        "messages": pa.array(turns, DRAWN["messages"].type),
        "sample_id": ids,
        "sample_index": pa.array([int(one[1]) for one in ids], pa.int32()),
        "response": [f"answer {one}" for one in ids],
    }
    return DRAWN.conform(pa.table(rows))


def marked(*rows: tuple[str | None, ...]) -> pa.Table:
    """Marks of (sample, mark, edited, note)."""
    whole = [(*row, None, None, None)[:4] for row in rows]
    columns = [pa.array(values, pa.string()) for values in zip(*whole, strict=True)]
    return MARKS.conform(pa.table(columns, names=MARKS.names))


GIVEN = (
    ("a1", "good"),
    ("b0", " Edited ", "a better answer", "too short"),
    ("c0", "bad"),
    ("c1", "GOOD"),
    ("zz", "bad"),
)
EXAMPLES = [Example(Human(), (drawn(), marked(*GIVEN))), Example(Human(output="liked"), (drawn(), marked(*GIVEN)))]


@pytest.fixture
def given(put: Any, tmp_path: Path) -> Any:
    """`given(marks, cuts=...)`: those marks on the samples."""

    def made(marks: pa.Table, cuts: tuple[int, ...] = ()) -> Dataset:
        return apply(Human(), [put(drawn(), cuts, DRAWN), put(marks, (), MARKS)], str(tmp_path / "out"))

    return made


@pytest.mark.parametrize("cuts", [(), (2, 4)])
def test_marks_meet_their_samples(given: Any, cuts: tuple[int, ...]) -> None:
    out = given(marked(*GIVEN), cuts)
    rows = out.read()
    assert rows["sample_id"].to_pylist() == ["a1", "b0", "c0", "c1"] and out.schema.key == ("sample_id",)
    assert rows["mark"].to_pylist() == ["good", "edited", "bad", "good"]
    assert rows["human"].to_pylist() == [1.0, 0.0, 0.0, 1.0]
    assert rows["edited"].to_pylist() == [None, "a better answer", None, None]
    assert rows["note"].to_pylist() == [None, "too short", None, None]
    assert rows["response"].to_pylist()[0] == "answer a1", "a sample stays what it was"
    [aside] = out.read_rejected().to_pylist()
    assert (aside["sample_id"], aside["mark"], aside["reason"]) == ("zz", "bad", "unknown-sample")


def test_a_mark_that_cannot_be_stands_beside_with_its_reason(given: Any) -> None:
    rows = (
        ("a0", "god"), ("a1", None), ("a1", " ", "a text alone is an edited answer"), ("b0", "edited", " "),
        ("b1", "good", "but with a text"), ("c0", "good"), ("c0", "good"), ("c1", "good"), ("c1", "bad"),
    )  # fmt: skip
    out = given(marked(*rows))
    kept = out.read().select(["sample_id", "mark"]).to_pylist()
    assert kept == [{"sample_id": "a1", "mark": "edited"}, {"sample_id": "c0", "mark": "good"}]
    aside = out.read_rejected().select(["sample_id", "reason", "threshold"]).to_pylist()
    assert [(row["sample_id"], row["reason"]) for row in aside] == [
        ("a0", "unknown-mark"), ("a1", "unmarked"), ("b0", "no-edited"), ("b1", "edited-too"), ("c0", "repeated"),
        ("c1", "contradictory"), ("c1", "contradictory"),
    ]  # fmt: skip
    assert [row["threshold"] for row in aside] == ["good, bad, edited", *[None] * 6]


def test_what_was_marked_filters_and_pairs(given: Any, tmp_path: Path) -> None:
    out = given(marked(*GIVEN))
    good = apply(Where(predicate="mark = 'good'"), out, str(tmp_path / "good"))
    assert good.read()["sample_id"].to_pylist() == ["a1", "c1"]
    edits = apply(PairAnswer(column="edited"), out, str(tmp_path / "edits")).read()
    assert edits.select(["chosen", "rejected", "rejected_sample_id"]).to_pylist() == [
        {"chosen": "a better answer", "rejected": "answer b0", "rejected_sample_id": "b0"}
    ]
    pairs = apply(Pair(rule="right_vs_wrong", column="human"), out, str(tmp_path / "pairs")).read()
    assert pairs.select(["chosen_sample_id", "rejected_sample_id"]).to_pylist() == [
        {"chosen_sample_id": "c1", "rejected_sample_id": "c0"}
    ]


def test_a_file_is_known_by_its_content(put: Any, tmp_path: Path) -> None:
    """A sheet as a person fills it in, and the same as JSON Lines; another word makes another dataset."""
    sheet, lines = tmp_path / "marks.csv", tmp_path / "marks.jsonl"
    sheet.write_text('sample_id,response,mark,edited,note\na0,answer a0,good,,\nb0,answer b0,edited,"so, better",\n')
    lines.write_text('{"id": "a0", "verdict": "good"}\n{"id": "b0", "mark": "edited", "edit": "so, better"}\n')
    read = [
        apply(Csv(files=(str(sheet),), format="marks").pinned(), [], str(tmp_path / "1")),
        apply(Jsonl(files=(str(lines),), format="marks").pinned(), [], str(tmp_path / "2")),
    ]
    samples = put(drawn(), (), DRAWN)
    made = [apply(Human(), [samples, one], f"{one.url}-out") for one in read]
    assert made[0].read() == made[1].read() and made[0].num_rows == 2
    sheet.write_text(sheet.read_text().replace("good", "bad"))
    other = apply(Csv(files=(str(sheet),), format="marks").pinned(), [], str(tmp_path / "3"))
    assert apply(Human(), [samples, other], str(tmp_path / "4")).task_key != made[0].task_key


def test_marks_on_other_samples_and_rows_that_are_no_marks_are_errors(given: Any) -> None:
    with pytest.raises(DataError, match="none of 2 marks is on one of these samples, the first on x") as fault:
        given(marked(("x", "good"), ("y", "bad")))
    assert fault.value.next == "give the samples that were looked at"
    assert given(marked(("x", "god"))).num_rows == 0, "one that cannot be anywhere says nothing of the samples"
    for inputs in ((DRAWN,), (DRAWN, DRAWN), (Human().gives(DRAWN, MARKS), MARKS)):
        with pytest.raises(
            QuiverError, match=r"takes samples and then marks|no column mark|are not samples without marks"
        ):
            Human().gives(*inputs)
    with pytest.raises(ConfigError, match="output must be a column of its own, not 'mark'"):
        Human(output="mark")


def test_a_column_of_another_name_holds_the_number() -> None:
    assert "liked" in Human(output="liked").gives(DRAWN, MARKS) and isinstance(Human().gives(DRAWN, MARKS), Schema)
