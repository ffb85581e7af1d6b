"""tokenize.sequences: ids and masks of several texts of a row, against the single-text operation and by hand."""

from __future__ import annotations

import functools
from pathlib import Path

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.io import Reversal
from datakit.op import Context, LabelResult
from datakit.run.resource import Resource
from datakit.tokenize import Mask, Sequences, Train
from datakit.tokenizers.tokenizer import Tokenizer
from schemas import PAIRS, PIECES, Column, Schema
from schemas.errors import ConfigError
from tests.datakit.fakes import Example


def text(*parts: tuple[str, bool, bool]) -> list[dict]:
    return [{"text": part, "special": special, "trained": trained} for part, special, trained in parts]


def answered(question: str, answer: str) -> list[dict]:
    return text((question, False, False), (answer, False, True), ("</s>", True, True))


TEMPLATED = Schema(
    "templated",
    1,
    (
        Column("pair_id", pa.string(), "the pair"),
        Column("chosen_pieces", PIECES, "one side"),
        Column("rejected_pieces", PIECES, "the other"),
    ),
    key=("pair_id",),
)


def pairs(*rows: tuple[list[dict], list[dict]]) -> pa.Table:
    ids = [f"p{number}" for number in range(len(rows))]
    chosen, rejected = ([row[side] for row in rows] for side in (0, 1))
    return TEMPLATED.conform(
        pa.table(
            {"pair_id": ids, "chosen_pieces": pa.array(chosen, PIECES), "rejected_pieces": pa.array(rejected, PIECES)}
        )
    )


ROWS = pairs(
    (answered("ab", "c"), answered("ab", "de")),
    (answered("a", ""), answered("a", "xyz")),
    (answered("abcdef", "g"), answered("abcdef", "h")),
)


@functools.cache
def trained_tokenizer() -> Tokenizer:
    import tempfile

    folder = tempfile.mkdtemp()
    rows = apply(Reversal(rows=200, output="demonstrations"), [], f"{folder}/rows")
    made = apply(Train(columns=("messages", "response"), vocab_size=280), rows, f"{folder}/tokenizer")
    return Tokenizer.of_dataset(made)


EXAMPLES = [Example(Sequences(), (ROWS,), {"tokenizer": Resource("trained", trained_tokenizer)})]


@pytest.fixture(scope="module")
def ctx() -> Context:
    return Context(resources={"tokenizer": trained_tokenizer()})


def test_each_side_is_what_the_single_text_operation_makes(ctx: Context) -> None:
    columns = Sequences().label(ROWS, ctx)
    assert not isinstance(columns, LabelResult)
    for side in ("chosen", "rejected"):
        alone = Mask(pieces=f"{side}_pieces", id_column="pair_id").label(ROWS, ctx)
        assert not isinstance(alone, LabelResult)
        assert columns[f"{side}_ids"].to_pylist() == alone["input_ids"].to_pylist()
        assert columns[f"{side}_mask"].to_pylist() == alone["loss_mask"].to_pylist()
        lengths = [mask.index(1) for mask in alone["loss_mask"].to_pylist()]
        assert columns[f"{side}_prompt_length"].to_pylist() == lengths
    assert {column.name for column in Sequences().adds} >= set(PAIRS.names) - {"pair_id", "source"}


def test_a_side_that_teaches_nothing_or_is_too_long_takes_the_pair_out(put, tmp_path: Path) -> None:
    silent = pairs((answered("ab", "c"), text(("ab", False, False))))["rejected_pieces"].to_pylist()[0]
    sides = [(answered("ab", "c"), silent), (answered("ab", "c"), answered("ab", "de"))]
    long = answered("abcdef" * 20, "g")
    rows = pairs(*sides, (long, answered("a", "h")), (long, silent))
    resources = {"tokenizer": Resource("trained", trained_tokenizer)}
    out = apply(Sequences(max_length=40), put(rows), str(tmp_path / "out"), resources=resources)
    assert out.read()["pair_id"].to_pylist() == ["p1"]
    rejected = out.read_rejected()
    assert rejected is not None
    assert dict(zip(rejected["pair_id"].to_pylist(), rejected["reason"].to_pylist(), strict=True)) == {
        "p0": "no-trained-token",
        "p2": "too-long",
        "p3": "too-long",
    }


def test_the_length_of_a_prompt_without_trained_tokens_is_that_of_the_row(ctx: Context) -> None:
    silent = pairs((text(("abc", False, False)), answered("", "d")))
    done = Sequences().label(silent, ctx)
    assert isinstance(done, LabelResult)
    ids = done.columns["chosen_ids"].to_pylist()[0]
    assert done.columns["chosen_prompt_length"].to_pylist() == [len(ids)]
    assert done.columns["rejected_prompt_length"].to_pylist() == [0]


@pytest.mark.parametrize("names", [(), ("chosen", "chosen")])
def test_names_are_different_and_there_is_one(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="once"):
        Sequences(names=names)
