"""Which format a file is in: formats that need other columns than the file has are not tried on it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.formats import parquet_child
from datakit.formats.forms import FORMS
from datakit.formats.recognise import fitting, names_left
from datakit.io import Jsonl
from schemas.process import interpreter


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The programs that were started to read a file."""
    started: list[str] = []

    def script(path: str) -> list[str]:
        started.append(path)
        return interpreter.script(path)

    monkeypatch.setattr(parquet_child, "interpreter", type("counted", (), {"script": staticmethod(script)}))
    return started


def test_a_file_whose_columns_no_format_needs_is_opened_once(tmp_path: Path, readers: list[str]) -> None:
    pq.write_table(pa.table({"height": [1.5], "grade": [1]}), tmp_path / "a.parquet")
    assert fitting(str(tmp_path / "a.parquet")) == [] and len(readers) == 1


def test_formats_whose_columns_are_there_are_tried_on_the_rows(tmp_path: Path, readers: list[str]) -> None:
    table = pa.table({"instruction": ["q"], "output": ["a"], "grade": [1]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert fitting(str(tmp_path / "a.parquet"))[0] == "alpaca" and 1 < len(readers) < 8
    (tmp_path / "a.csv").write_text("instruction,output,grade\nq,a,1\n")
    assert fitting(str(tmp_path / "a.csv"))[0] == "alpaca"
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    assert fitting(str(tmp_path / "a.arrow")) == fitting(str(tmp_path / "a.parquet"))


def test_columns_that_cannot_be_read_leave_it_to_each_format(tmp_path: Path, readers: list[str]) -> None:
    text = pa.array(["q"], pa.binary())
    torn = pa.StringArray.from_buffers(1, text.buffers()[1], pa.py_buffer(b"\xff"))
    pq.write_table(pa.table({"grade": torn, "prompt": ["q"], "response": ["a"]}), tmp_path / "a.parquet")
    forms = ["completions", "preferences"]
    assert fitting(str(tmp_path / "a.parquet"), forms) == ["completions"] and len(readers) == 3


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.records])
def test_a_record_with_nothing_that_its_format_takes_apart_makes_no_row(tmp_path: Path, name: str) -> None:
    form = FORMS[name]
    assert form.roots, "nothing is known of what it reads"
    others = {key.name: 1.5 if "reward" in key.name else "a" for key in form.keys if key.name not in form.roots}
    (tmp_path / "a.jsonl").write_text(json.dumps({**others, "height": 1}) + "\n")
    assert names_left(Jsonl(files=(str(tmp_path / "a.jsonl"),), format=name)) is None
