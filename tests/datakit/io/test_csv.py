"""Separated values: quotes, newlines and delimiters inside cells, types by key, faults by row, against `csv`."""

from __future__ import annotations

import csv
import gzip
import io
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.io import Csv
from datakit.op import Context
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example

EXAMPLES = [Example(Csv(files=(str(Path(__file__).with_name("prompts.csv")),), format="prompts"))]


def load(path: Path, data: bytes | str, **settings: object) -> tuple[list[dict], list[dict]]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    results = list(Csv(files=(str(path),), **settings).read(Context()))
    rejected = [row for result in results if result.rejected is not None for row in result.rejected.to_pylist()]
    return pa.concat_tables([result.rows for result in results]).to_pylist(), rejected


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_cells_are_those_that_pythons_reader_gives(tmp_path: Path, delimiter: str) -> None:
    draw = random.Random(5)
    pieces = ["x", '"', "\n", ",", "\t", ";", "é", " ", "7", "\r\n"]
    texts = ["a" + "".join(draw.choices(pieces, k=draw.randrange(12))) for _ in range(600)]
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=draw.choice(["\n", "\r\n"]))
    writer.writerow(["id", "answer text", "question"])
    writer.writerows([number, text, f"{number} {text}"] for number, text in enumerate(texts))
    mapped = {"prompt": "question", "response": "answer text"}
    rows, rejected = load(tmp_path / "a", out.getvalue(), format="completions", columns=mapped, delimiter=delimiter)
    assert rejected == []
    assert [row["response"] for row in rows] == texts
    assert [row["messages"][0]["content"] for row in rows] == [f"{n} {text}" for n, text in enumerate(texts)]


def test_rows_that_do_not_fit_are_rejected_with_their_number(tmp_path: Path) -> None:
    data = (
        b"\xef\xbb\xbfprompt,response,reward\n"
        b'"a\nb",x,1.5\n'  # row 1 of two lines
        b"c,y\n"  # row 2: a cell too few
        b"d,z,high\n"  # row 3
        b"e,\xff,2\n"  # row 4
        b"f,w,\n"  # row 5: an empty cell is null
        b"g,v, 3 \n"  # row 6
        b"h,u,4,5\n"  # row 7: a cell too many
    )
    rows, rejected = load(tmp_path / "a.csv", data, format="rewarded")
    assert [(row["messages"][0]["content"], row["reward"]) for row in rows] == [("a\nb", 1.5), ("g", 3.0)]
    assert [(row["place"], row["reason"]) for row in rejected] == [
        ("a.csv:2", "wrong-cells"),
        ("a.csv:3", "wrong-type"),
        ("a.csv:4", "bad-text"),
        ("a.csv:5", "null"),
        ("a.csv:7", "wrong-cells"),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no sound file"),
        (b"prompt\n", "holds no record"),
        (b"a,b\n1,2\n", "no column prompt or text or input"),
        (b"prompt,prompt\n1,2\n", "prompt twice"),
        (b",".join(b"c%d" % n for n in range(5000)) + b"\n", "a header of 5000 columns"),
        (b'prompt\n"a' + b"x" * (1 << 25), "no sound file"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path / "a.csv", data, format="prompts")


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ('prompt,response\na,"b\nc,d\ne,f\n', 2),
        ('prompt,response\nx,y\na,"b', 3),
        ('prompt,response\r\na,"b""\r\n', 2),
        ('"prompt,response\na,b\n', 1),
        ('prompt,response\na,"b\nc,d\ne,"f\n', 2),  # the next quote closes it, two rows later
        ('prompt,response\na,"b"x\n', 2),
        ("prompt,response\n" + "a,b\n" * 300_000 + 'a,"b\n' + "c,d\n" * 300_000, 300_002),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_quote_that_does_not_end_its_cell_swallows_no_row(
    tmp_path: Path, data: str, line: int, pack: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path / "a.csv", pack(data.encode()), format="completions")
    assert (caught.value.slug, caught.value.where.split(" of ")[0]) == ("broken-csv", f"line {line}"), caught.value


def test_quotes_inside_texts_and_blanks_behind_quotes_are_read(tmp_path: Path) -> None:
    data = '\n"prompt","response"\n5" of it,a"b\n"""c""" ,"d,\n""e"""\n,""'
    rows, rejected = load(tmp_path / "a.csv", data, format="completions")
    assert [(row["messages"][0]["content"], row["response"]) for row in rows] == [
        ('5" of it', 'a"b'),
        ('"c" ', 'd,\n"e"'),
    ]
    assert [row["reason"] for row in rejected] == ["null"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "iso-8859-1"])
def test_a_header_in_another_encoding_is_named_with_what_makes_it_utf_8(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path / "a.csv", "prompt,réponse\na,b\n".encode(encoding), format="completions")
    name = "UTF-16" if encoding == "utf-16-le" else encoding.upper()
    assert caught.value.slug == "bad-text" and f"iconv -f {name} -t UTF-8" in caught.value.next


def test_a_delimiter_is_one_character() -> None:
    with pytest.raises(ConfigError, match="is no delimiter"):
        Csv(files=("a",), format="prompts", delimiter="ab")


def test_a_public_file_with_quotes_and_newlines(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "xstest/xstest_prompts.csv"
    with path.open(newline="", encoding="utf-8") as file:
        wanted = [row["prompt"] for row in csv.DictReader(file)]
    done = apply(Csv(files=(str(path),), format="prompts"), [], str(tmp_path / "out"))
    assert [turns[0]["content"] for turns in done.read()["messages"].to_pylist()] == wanted
