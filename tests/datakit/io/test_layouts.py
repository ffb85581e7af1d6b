"""What a file is by its first bytes: endings in any case, lists, objects of a list, every compression, and bombs."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.formats.layouts import reader_of
from datakit.formats.sources import head_of
from datakit.io import Jsonl
from datakit.op import Context
from datakit.registry import op_of
from schemas.errors import ConfigError, DataError, counted

RECORDS = [{"prompt": f"q{n}", "response": "r"} for n in range(3)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


def zstd(data: bytes) -> bytes:
    sink = io.BytesIO()
    with pa.CompressedOutputStream(pa.PythonFile(sink, mode="w"), "zstd") as stream:
        stream.write(data)
        stream.flush()
        sink.close = lambda: None  # type: ignore[method-assign]
    return sink.getvalue()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
}


def questions(path: Path, **settings: object) -> list[str]:
    name, more = reader_of((str(path),))
    op = op_of(name, {"files": [str(path)], "format": "completions", **more, **settings})
    tables = [result.rows for result in op.read(Context())]  # type: ignore[attr-defined]
    return [row["messages"][0]["content"] for row in pa.concat_tables(tables).to_pylist()]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", LINES),
        ("a.ndjson", LINES),
        ("A.JSONL", b"\xef\xbb\xbf" + LINES),
        ("a", b"\n" + LINES),
        ("a.jsonl", json.dumps(RECORDS).encode()),
        ("a.json", json.dumps(RECORDS, indent=2).encode()),
        ("a.json", json.dumps({"data": RECORDS}).encode()),
        ("a.json", json.dumps({"version": [1], "info": {"n": 3}, "rows": RECORDS, "end": 1}, indent=1).encode()),
        ("a.JSON", json.dumps({"rows": RECORDS, "more": {"data": [{}]}}).encode() + b"\n"),
        ("a.csv", b"prompt,response\nq0,r\nq1,r\nq2,r\n"),
        ("a.TSV", b"prompt\tresponse\nq0\tr\nq1\tr\nq2\tr\n"),
    ],
)
def test_a_file_is_read_as_what_it_is(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert questions(tmp_path / name) == ["q0", "q1", "q2"]
    for ending, pack in PACKED.items():
        packed = tmp_path / f"{name}.{ending.upper()}"
        packed.write_bytes(pack(data[:40]) + pack(data[40:]))
        assert questions(packed) == ["q0", "q1", "q2"], ending


def test_names_beside_the_rows_are_reported(tmp_path: Path) -> None:
    data = {"version": "1", "errors": [], "rows": RECORDS, "tail": {"x": RECORDS}, "tags": ["a"], "at": 1}
    (tmp_path / "a.json").write_text(json.dumps(data))
    made = apply(
        Jsonl(files=(str(tmp_path / "a.json"),), format="completions", ignore=("at",)), [], str(tmp_path / "o")
    )
    assert made.read().num_rows == 3
    (note,) = Jsonl(files=("a.json",), format="completions").notes(made.manifest)
    assert note == "left out: " + ", ".join(
        f"the file's {name} (1 file)" for name in ("errors", "tags", "tail", "version")
    )


@pytest.mark.parametrize("lists", [{"train": RECORDS, "test": RECORDS[:2]}, {"meta": [{"x": 1}], "train": RECORDS}])
def test_of_several_lists_none_is_chosen(tmp_path: Path, lists: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, **lists}))
    with pytest.raises(DataError) as caught:
        questions(Path("a.json"))
    assert caught.value.slug == "several-lists"
    assert caught.value.found == ", ".join(f"{n} ({counted(len(rows), 'row')})" for n, rows in lists.items())
    command = caught.value.next.replace("python", sys.executable, 1)
    subprocess.run(["bash", "-c", command], check=True)
    assert questions(Path("only-train.json")) == ["q0", "q1", "q2"]
    (tmp_path / "a.json.gz").write_bytes(gzip.compress((tmp_path / "a.json").read_bytes()))
    with pytest.raises(DataError, match="write train alone into a file"):
        questions(Path("a.json.gz"))


@pytest.mark.parametrize("name", ["data", "note"])
def test_a_key_of_the_file_that_stands_twice_is_a_fault(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.json").write_text(f'{{"data": {json.dumps(RECORDS)}, "note": 1, "{name}": []}}')
    with pytest.raises(DataError) as caught:
        questions(tmp_path / "a.json")
    assert (caught.value.slug, caught.value.expected) == ("duplicate-key", f"{name} once")


@pytest.mark.parametrize(
    ("form", "row"),
    [
        ("nemo_gym", {"options": [{"A": "x"}], "responses_create_params": {"input": "q"}, "expected_answer": "1"}),
        ("vicuna", {"notes": [{"a": 1}], "turns": ["q"]}),
        ("ultrafeedback", {"instruction": "q", "completions": [{"response": "r", "overall_score": 1.0}]}),
        ("oasst", {"tags": [{"a": 1}], "prompt": {"role": "prompter", "text": "q", "replies": [{"role": "assistant",
         "text": "r", "rank": 0, "replies": []}]}}),
    ],
)  # fmt: skip
def test_one_record_of_a_format_whose_records_are_not_flat_is_a_record(tmp_path: Path, form: str, row: dict) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    (result,) = Jsonl(files=(str(tmp_path / "a.jsonl"),), format=form).read(Context())
    assert (result.rows.num_rows, result.rejected) == (1, None)


@pytest.mark.parametrize(
    "line",
    [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]},
        {"tags": [{"a": 1}], "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]},
    ],
)
def test_one_record_that_holds_a_list_is_a_record(tmp_path: Path, line: dict) -> None:
    (tmp_path / "a.json").write_text(json.dumps(line))
    (result,) = Jsonl(files=(str(tmp_path / "a.json"),), format="messages").read(Context())
    assert result.rows.num_rows == 1


def test_a_first_line_that_is_broken_is_one_rejected_row(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"prompt":\n' + LINES)
    results = list(Jsonl(files=(str(tmp_path / "a.json"),), format="completions").read(Context()))
    assert sum(result.rows.num_rows for result in results) == 3
    assert [r.rejected.num_rows for r in results if r.rejected is not None] == [1]


def test_a_large_object_on_one_line_is_read_in_bounded_pieces(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n} " + "x" * 1000, "response": "r"} for n in range(20_000)]
    (tmp_path / "a.json").write_text(json.dumps({"data": rows}))
    assert len(questions(tmp_path / "a.json", max_line=5000)) == 20_000


@pytest.mark.parametrize("ending", PACKED)
def test_a_torn_stream_is_an_error(tmp_path: Path, ending: str) -> None:
    whole = PACKED[ending](LINES * 50)
    (tmp_path / "a.jsonl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError) as caught:
        questions(tmp_path / "a.jsonl", format="completions")
    assert caught.value.slug.startswith("broken-"), caught.value


@pytest.mark.parametrize("ending", PACKED)
def test_what_expands_beyond_the_cap_is_refused(tmp_path: Path, ending: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(PACKED[ending](b" " * (80 << 20)))
    with pytest.raises(DataError) as caught:
        questions(tmp_path / "a.jsonl")
    assert caught.value.slug == "too-large" and "expand the file yourself" in caught.value.next
    assert len(head_of(str(tmp_path / "a.jsonl"), 10)) <= 1 << 20


def test_files_of_several_kinds_or_of_none_are_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "b.tsv", "c.jsonl"):
        (tmp_path / name).write_bytes(LINES)
    (tmp_path / "d.txt").write_text("hello")
    (tmp_path / "e.csv").write_text("prompt;response\n")
    for names in (("a.csv", "b.tsv"), ("a.csv", "c.jsonl"), ("d.txt",), ("a.csv", "e.csv")):
        with pytest.raises(ConfigError) as caught:
            reader_of(tuple(str(tmp_path / name) for name in names))
        assert caught.value.slug == "file-kind"


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_cells_are_divided_by_what_stands_in_the_header(tmp_path: Path, mark: str, packed: Callable) -> None:
    """Spreadsheets write semicolons where a comma is part of numbers; other marks are then text."""
    lines = [f"\ufeffprompt{mark}response", f'2 + 2; or "3"?{mark}4'.replace("; or", "" if mark == ";" else "; or")]
    (tmp_path / "a.csv").write_bytes(packed("\r\n".join(lines).encode()))
    assert questions(tmp_path / "a.csv") == ['2 + 2 "3"?' if mark == ";" else '2 + 2; or "3"?']
