"""JSON Lines: how files are cut into blocks, against the plain way, and the sample files."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from datakit.apply import apply
from datakit.io import Jsonl
from datakit.io.lines import blocks

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
        found, faults = [], []
        for block in blocks(chunks, limit, size):
            found += zip(block.numbers.tolist(), block.data.split(b"\n")[:-1], strict=True)
            faults += [fault.line for fault in block.faults]
        assert (found, sorted(faults)) == plainly(data, limit), data


SAMPLES = [
    ("gsm8k-train/train.jsonl.gz", {"format": "prompts", "columns": {"prompt": "question"}}, 7473, 0),
    ("hh-rlhf/harmless-base.test.jsonl.gz", {"format": "hh"}, 2303, 9),
    ("nemo-aligner/functional/dummy-dpo.jsonl", {"format": "preferences", "dialogue": "extra_id"}, 100, 0),
    ("nemo-aligner/functional/dummy-sft.jsonl", {"format": "chats"}, 30, 0),
    ("nemo-aligner/functional/synthetic-123.jsonl", {"format": "prompts"}, 50, 0),
    ("nemo-aligner/functional/synthetic-kd.jsonl", {"format": "completions"}, 50, 0),
    ("nemo-aligner/functional/test-rm.jsonl", {"format": "attributes"}, 8, 0),
    ("instruction-preference/instruction-data-with-preference.json.gz",
     {"format": "alpaca_preferences", "layout": "array"}, 1094, 6),
    ("llamafactory-demo/dpo_en_demo.json.gz", {"format": "sharegpt_preferences", "layout": "array"}, 300, 0),
    ("llamafactory-demo/glaive_toolcall_en_demo.json.gz", {"format": "sharegpt", "layout": "array"}, 300, 0),
    ("dolly-sample/dolly.jsonl", {"format": "completions", "columns": {"response": "answer"}}, 151, 0),
]  # fmt: skip


@pytest.mark.parametrize("case", SAMPLES, ids=[case[0] for case in SAMPLES])
def test_sample_files(shared_data: Path, tmp_path: Path, case: tuple[str, dict, int, int]) -> None:
    name, settings, rows, rejected = case
    op = Jsonl(files=(str(shared_data / name),), **settings)
    done = apply(op, [], str(tmp_path / "out"), max_rejected=rejected)
    gone = done.read_rejected()
    assert (done.num_rows, 0 if gone is None else gone.num_rows) == (rows, rejected)
