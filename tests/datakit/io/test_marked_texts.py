"""Texts in which marks stand between turns, read as text: a note says so, and how they are read as turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datakit.apply import apply
from datakit.io import Jsonl
from schemas.errors import ConfigError

MARKED = "<extra_id_0>System\n\n<extra_id_1>User\nhi\n<extra_id_1>Assistant\n"


@pytest.mark.parametrize(
    ("form", "rest"), [("preferences", {"chosen": "a", "rejected": "b"}), ("completions", {"response": "a"})]
)
def test_marks_that_are_read_as_text_are_noted(form: str, rest: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": text, **rest}) + "\n" for text in (MARKED, "plain")))
    read = Jsonl(files=(str(file),), format=form)
    [note] = read.notes(apply(read, [], str(tmp_path / "a")).manifest)
    assert note.startswith("1 text with") and note.endswith("as turns with --dialogue extra_id")
    file.write_text(json.dumps({"prompt": MARKED, **rest}) + "\n")
    turns = Jsonl(files=(str(file),), format=form, dialogue="extra_id")
    assert turns.notes(apply(turns, [], str(tmp_path / "b")).manifest) == ()


@pytest.mark.parametrize("form", ["attributes", "comparisons"])
def test_formats_whose_texts_are_dialogues_have_nothing_to_note(form: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    text = f"{MARKED}{{}}\n<extra_id_2>"
    rows = [{"text": text.format(answer), "label": [1.0]} for answer in "ab"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ignore = ("label",) if form == "comparisons" else ()
    read = Jsonl(files=(str(file),), format=form, ignore=ignore)
    made = apply(read, [], str(tmp_path / "rows"))
    assert read.notes(made.manifest) == ()
    assert {turn["content"] for row in made.read()["messages"].to_pylist() for turn in row} == {"hi"}


def test_a_format_without_dialogues_names_one_that_has_them() -> None:
    with pytest.raises(ConfigError, match="format sharegpt_preferences does not read extra_id texts") as fault:
        Jsonl(files=("rows.jsonl",), format="sharegpt_preferences", dialogue="extra_id")
    assert fault.value.next == "--format preferences" and fault.value.expected == "--dialogue plain"
