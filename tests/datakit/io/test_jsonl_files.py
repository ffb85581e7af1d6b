"""JSON Lines: how files are cut into blocks, against the plain way, and the sample files."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import re
import time
from pathlib import Path

import pytest

from datakit.apply import apply
from datakit.formats.compression import FLOOR
from datakit.formats.forms import FORMS
from datakit.formats.lines import BLOCK, blocks
from datakit.formats.size import size_of
from datakit.io import Csv, Jsonl

PARTS = [b'{"a":1}', b'{"abc":123456789012345}', b"", b"  ", b"{", b"\r"]


def plainly(data: bytes, limit: int) -> tuple[list[tuple[int, bytes]], list[int]]:
    stripped = [(number, line.strip(b" \t\r")) for number, line in enumerate(data.split(b"\n"), 1)]
    short = [(number, line) for number, line in stripped if line and len(line) <= limit]
    return short, [number for number, line in stripped if len(line) > limit]


@pytest.mark.parametrize(("step", "size"), list(itertools.product((1, 2, 7, 50), (1, 8, 1000))))
def test_blocks_are_the_lines_however_the_bytes_arrive(step: int, size: int) -> None:
    draw = random.Random(step * size)
    for _ in range(100):
        lines = (draw.choice(PARTS) + draw.choice([b"\n", b"\r\n"]) for _ in range(draw.randrange(12)))
        data, limit = b"".join(lines) + draw.choice([b"", b'{"x":2}']), draw.choice([5, 10, 30])
        chunks = (data[at : at + step] for at in range(0, len(data), step))
        numbered, faults = [], []
        for block in blocks(chunks, limit, size):
            numbered += zip(block.numbers.tolist(), block.data.split(b"\n")[:-1], strict=True)
            faults += [fault.line for fault in block.faults]
        assert (numbered, sorted(faults)) == plainly(data, limit), data


@pytest.mark.parametrize("blank", [b"\n", b" \n", b"\t \r\n"])
def test_blank_lines_cost_next_to_nothing(blank: bytes) -> None:
    data = b'{"a":1}\n' + blank * (2 * BLOCK // len(blank)) + b'{"a":2}'
    begun = time.process_time()
    made = list(blocks((data[at : at + (1 << 20)] for at in range(0, len(data), 1 << 20)), 1 << 24))
    assert time.process_time() - begun < 1.5
    assert [number for block in made for number in block.numbers.tolist()] == [1, data.count(b"\n") + 1]
    assert b"".join(block.data for block in made) == b'{"a":1}\n{"a":2}\n'


def test_a_file_is_taken_for_no_more_than_it_may_expand_to_nor_blank_lines_for_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"\n" * (32 << 20)))
    size = size_of([str(tmp_path / "a.jsonl.gz")])
    assert size.rows * 1024 <= FLOOR and size.bytes <= FLOOR


PAGE = Path(__file__).parents[3] / "docs/formats.md"
SAMPLES = [
    [cell.strip().strip("`") for cell in line.strip("|").split("|")]
    for line in PAGE.read_text().partition("## Sample files")[2].splitlines()
    if line.startswith("| ") and "/" in line
]


@pytest.mark.parametrize("case", SAMPLES, ids=[case[1] for case in SAMPLES])
def test_the_sample_files_of_the_page(shared_data: Path, tmp_path: Path, case: list[str]) -> None:
    form, name, settings, rows, rejected = case
    kind = Csv if ".csv" in name else Jsonl
    op = kind(files=(str(shared_data / name),), format=form, **json.loads(settings or "{}"))
    done = apply(op, [], str(tmp_path / "out"), max_rejected=int(rejected))
    gone = done.read_rejected()
    assert (done.num_rows, 0 if gone is None else gone.num_rows) == (int(rows), int(rejected))
    folder, _, file = name.partition("/")
    source = (shared_data / folder / "SOURCE.txt").read_text()
    published = re.search(rf"^- {re.escape(file)}: (\d+) rows;", source, re.M)
    assert published, "its source says how many rows there are"
    if form != "oasst":  # rows are trees there, of many answers each: below
        assert int(rows) + int(rejected) == int(published[1])
    assert gone is None or all(gone["reason"].to_pylist())


def test_the_page_names_every_format() -> None:
    text = PAGE.read_text()
    assert [name for name in FORMS if f"| {name} | `" not in text] == []
    assert len(SAMPLES) > 30


def test_openassistant_answers_are_all_there(shared_data: Path, tmp_path: Path) -> None:
    """Against a plain walk over the trees."""
    path = shared_data / "oasst/en_100_tree.jsonl.gz"
    expected: list[tuple[str, str, float | None]] = []

    def walk(node: dict, before: list[str]) -> None:
        texts = [*before, node["text"]]
        for reply in node["replies"]:
            if node["role"] == "prompter":
                rank = reply.get("rank")
                expected.append(("\n".join(texts), reply["text"], None if rank is None else -float(rank)))
            walk(reply, texts)

    for line in gzip.decompress(path.read_bytes()).splitlines():
        walk(json.loads(line)["prompt"], [])
    done = apply(Jsonl(files=(str(path),), format="oasst"), [], str(tmp_path / "out")).read().to_pylist()
    triples = [("\n".join(turn["content"] for turn in r["messages"]), r["response"], r["reward"]) for r in done]
    assert sorted(triples, key=repr) == sorted(expected, key=repr)
