"""Texts in which marks stand between turns, read as text: a note says so, and how they are read as turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datakit.apply import apply
from datakit.io import Jsonl

MARKED = "<extra_id_0>System\n\n<extra_id_1>User\nhi\n<extra_id_1>Assistant\n"


@pytest.mark.parametrize(
    ("form", "rest"), [("preferences", {"chosen": "a", "rejected": "b"}), ("completions", {"response": "a"})]
)
def test_marks_that_are_read_as_text_are_noted(form: str, rest: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": text, **rest}) + "\n" for text in (MARKED, "plain")))
    read = Jsonl(files=(str(file),), format=form)
    [note] = read.notes(apply(read, [], str(tmp_path / "a")).manifest)
    assert note.startswith("1 text with") and """--params '{"dialogue": "extra_id"}'""" in note
    file.write_text(json.dumps({"prompt": MARKED, **rest}) + "\n")
    turns = Jsonl(files=(str(file),), format=form, dialogue="extra_id")
    assert turns.notes(apply(turns, [], str(tmp_path / "b")).manifest) == ()
