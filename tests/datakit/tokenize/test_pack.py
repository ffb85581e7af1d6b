"""tokenize.pack on the conformance suite; what it does by hand stands in test_ops.py."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.columns.bins import PACKINGS, Packing, best_fit_decreasing
from datakit.op import Context
from datakit.tokenize import Pack
from datakit.tokenizers.tokenizer import Tokenizer
from schemas import TOKENS, Dataset
from tests.datakit.fakes import Example
from tests.tail import late

EXAMPLES = [Example(Pack(capacity=7, packing=packing), (TOKENS.example(12),)) for packing in PACKINGS]


def test_the_example_packs_two_rows_of_three_tokens():
    rows = Pack(capacity=7).gather(TOKENS.example(12), Context()).rows
    assert rows["lengths"].to_pylist() == [[3, 3]] * 6


def test_packs_tell_where_each_sequence_came_from():
    tokens = TOKENS.example(12)
    op = Pack(capacity=7)
    rows = op.gather(tokens, Context()).rows
    sources = dict(zip(tokens["sample_id"].to_pylist(), tokens["source"].to_pylist(), strict=True))
    for ids, given in zip(rows["sample_ids"].to_pylist(), rows["sources"].to_pylist(), strict=True):
        assert given == [sources[name] for name in ids]
    assert "sources" in op.gives(TOKENS) and "sources" not in op.gives(TOKENS.dropping("source"))


def naive_best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    bins: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        rooms = [capacity - sum(lengths[other] for other in one) for one in bins]
        fitting = [(room, at) for at, room in enumerate(rooms) if room >= lengths[row]]
        if fitting:
            bins[min(fitting)[1]].append(row)
        else:
            bins.append([row])
    return bins


def test_best_fit_against_a_loop_over_all_bins() -> None:
    draw = random.Random(2)
    for _ in range(60):
        lengths = [draw.randrange(1, 31) for _ in range(draw.randrange(60))]
        assert best_fit_decreasing(np.array(lengths, np.int64), 30) == naive_best_fit(lengths, 30)
    assert best_fit_decreasing(np.array([6, 5, 4, 4, 3]), 10) == [[0, 2], [1, 3], [4]], "4 goes with 6, not with 5"


@pytest.fixture(scope="module")
def real_tokens(shared_data: Path) -> pa.Table:
    """TOKENS of GSM8K's questions and answers, by a tokenizer of 8 thousand tokens or so; every answer is learnt."""
    tokenizer = Tokenizer.of_folder(str(shared_data / "tokenizer-oasst-tiny"))
    data = gzip.decompress((shared_data / "gsm8k-train/train.jsonl.gz").read_bytes())
    lines = [json.loads(line) for line in data.splitlines()]
    asked, learnt = (tokenizer.encode([line[name] for line in lines]) for name in ("question", "answer"))
    rows = {
        "sample_id": [str(at) for at in range(len(lines))],
        "input_ids": [[*a, *b] for a, b in zip(asked, learnt, strict=True)],
        "loss_mask": [[0] * len(a) + [1] * len(b) for a, b in zip(asked, learnt, strict=True)],
        "source": ["gsm8k"] * len(lines),
    }
    return TOKENS.conform(pa.table({name: pa.array(values, TOKENS[name].type) for name, values in rows.items()}))


@pytest.mark.parametrize(
    ("packing", "capacity"), [(p, c) if c == 2048 else late(p, c) for p in PACKINGS for c in (2048, 4096)]
)
def test_packs_of_real_lengths_are_full_and_keep_every_row(
    packing: Packing, capacity: int, real_tokens: pa.Table
) -> None:
    """At least 99 % over hundreds of packs; cut at its sequence starts, a pack gives rows and masks back."""
    packs = Pack(capacity=capacity, packing=packing).gather(real_tokens, Context()).rows
    tokens = np.array([sum(lengths) for lengths in packs["lengths"].to_pylist()])
    assert len(packs) > 100 and tokens.max() <= capacity
    assert tokens.sum() / (len(packs) * capacity) >= 0.99
    rows = {row["sample_id"]: (row["input_ids"], row["loss_mask"]) for row in real_tokens.to_pylist()}
    for pack in packs.to_pylist():
        ends = np.cumsum([0, *pack["lengths"]]).tolist()
        for name, start, end in zip(pack["sample_ids"], ends, ends[1:], strict=False):
            assert rows.pop(name) == (pack["input_ids"][start:end], pack["loss_mask"][start:end])
    assert not rows


def test_how_full_the_packs_are_is_noted(tmp_path: Path) -> None:
    data = Dataset.from_arrow(TOKENS.example(12), TOKENS, str(tmp_path / "tokens"))
    op = Pack(capacity=7)
    made = apply(op, [data], str(tmp_path / "packs"))
    assert op.notes(made.manifest) == ("6 packs, 85.71% full, 2.0 rows in one",)
