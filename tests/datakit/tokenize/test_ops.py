"""Train, encode, mask, pack: hand-worked rows, limits at L-1, L, L+1, conserved tokens, and the same bytes
again."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.apply import apply
from datakit.columns.bins import first_fit_decreasing
from datakit.io import Reversal
from datakit.op import Context, LabelResult
from datakit.run.resource import Resource
from datakit.template import Chat
from datakit.tokenize import Encode, Mask, Pack, Train
from datakit.tokenizers.tokenizer import Tokenizer
from schemas import PIECES, TOKENS
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError


def chained(parts: Iterable[list]) -> list:
    return list(itertools.chain.from_iterable(parts))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenize")


@pytest.fixture(scope="module")
def demonstrations(folder: Path) -> Dataset:
    op = Reversal(rows=300, output="demonstrations", wrong_share=0.25)
    return apply(op, [], str(folder / "demonstrations"))


@pytest.fixture(scope="module")
def vocabulary(folder: Path, demonstrations: Dataset) -> Dataset:
    return apply(Train(columns=("messages", "response"), vocab_size=290), demonstrations, str(folder / "vocabulary"))


@pytest.fixture(scope="module")
def tokenizer(vocabulary: Dataset) -> Tokenizer:
    return Tokenizer.of_dataset(vocabulary)


def row(*parts: tuple[str, bool, bool]) -> list[dict]:
    return [{"text": text, "special": special, "trained": trained} for text, special, trained in parts]


def rows(*pieces: list[dict]) -> pa.Table:
    ids = [f"r{number}" for number in range(len(pieces))]
    return pa.table({"sample_id": ids, "pieces": pa.array(list(pieces), PIECES)})


def context(tokenizer: Tokenizer) -> Context:
    return Context(resources={"tokenizer": tokenizer})


def test_control_tokens_come_first_then_bytes_then_merges(tokenizer: Tokenizer) -> None:
    names = ["<|bos|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
    assert [tokenizer.id_of(name) for name in names] == list(range(7))
    assert tokenizer.size <= 290
    assert set(tokenizer.control) == set(names)


def test_every_digit_is_a_token_and_every_text_round_trips(tokenizer: Tokenizer) -> None:
    texts = ["0123456789", "Reverse the digits: 90210", "é漢🙂\n\t\x01", "<|end|>"]
    ids = tokenizer.encode(texts)
    assert len(ids[0]) == 10
    assert tokenizer.decode(ids) == texts


def test_training_again_gives_the_same_vocabulary(
    folder: Path, demonstrations: Dataset, vocabulary: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    again = apply(Train(columns=("messages", "response"), vocab_size=290), demonstrations, str(folder / "again"))
    assert again.content_digest == vocabulary.content_digest


def test_the_whole_way_from_rows_to_packs(folder: Path, demonstrations: Dataset, tokenizer: Tokenizer) -> None:
    needs = {"tokenizer": Resource(tokenizer.identity, functools.partial(_same, tokenizer))}
    text = apply(Chat(response="response"), demonstrations, str(folder / "text"), resources=needs)
    tokens = apply(Mask(max_length=64), text, str(folder / "tokens"), resources=needs)
    packs = apply(Pack(capacity=100), tokens, str(folder / "packs"), seed=1)
    one = tokens.read().to_pylist()[0]
    asked, response = one["messages"][0]["content"], one["response"]
    plain = tokenizer.encode([asked, response])
    marks = [tokenizer.id_of(name) for name in ("<|bos|>", "<|user|>", "<|end|>", "<|assistant|>")]
    assert one["input_ids"] == [marks[0], marks[1], *plain[0], marks[2], marks[3], *plain[1], marks[2]]
    assert one["loss_mask"] == [0] * (len(plain[0]) + 4) + [1] * (len(plain[1]) + 1)
    assert sum(map(len, tokens.read()["input_ids"].to_pylist())) == sum(map(len, packs.read()["input_ids"].to_pylist()))
    assert sorted(chained(packs.read()["sample_ids"].to_pylist())) == sorted(tokens.read()["sample_id"].to_pylist())


def _same(tokenizer: Tokenizer) -> Tokenizer:
    return tokenizer


ROW = row(("<|user|>", True, False), ("123", False, False), ("<|assistant|>", True, False), ("321", False, True))


def test_mask_by_hand(tokenizer: Tokenizer) -> None:
    user, assistant, end = (tokenizer.id_of(name) for name in ("<|user|>", "<|assistant|>", "<|end|>"))
    one, two, three = (tokenizer.encode([digit])[0][0] for digit in "123")
    ids = [user, one, two, three, assistant, three, two, one]
    columns = Mask().label(rows(ROW), context(tokenizer))
    assert columns["input_ids"].to_pylist() == [ids]
    assert columns["loss_mask"].to_pylist() == [[0, 0, 0, 0, 0, 1, 1, 1]]
    closed = [*ROW, *row(("<|end|>", True, True))]
    columns = Mask(append_eos=True).label(rows(ROW, closed, ROW[:3] + ROW[3:]), context(tokenizer))
    assert columns["input_ids"].to_pylist() == [[*ids, end]] * 3
    assert columns["loss_mask"].to_pylist() == [[0] * 5 + [1] * 4] * 3


def test_a_row_that_teaches_nothing_is_rejected(tokenizer: Tokenizer) -> None:
    table = rows(ROW, ROW[:3], [], row(("1", False, True)), ROW)
    labels = Mask(append_eos=False).label(table, context(tokenizer))
    assert isinstance(labels, LabelResult)
    assert labels.kept.keep.to_pylist() == [True, False, False, False, True]
    assert labels.kept.reason.to_pylist()[1:4] == ["no-trained-token"] * 3


def test_rows_by_another_id_get_a_sample_id(tokenizer: Tokenizer) -> None:
    table = rows(ROW).rename_columns(["chat_id", "pieces"])
    columns = Mask(id_column="chat_id").label(table, context(tokenizer))
    assert columns["sample_id"].to_pylist() == ["r0"]


@pytest.mark.parametrize(("limit", "stays"), [(7, False), (8, True), (9, True)])
def test_limits(tokenizer: Tokenizer, limit: int, stays: bool) -> None:
    table, ctx = rows(ROW, ROW[3:] * 3), context(tokenizer)
    labels = Encode(max_length=limit).label(table, ctx)
    if limit == 9:
        assert not isinstance(labels, LabelResult)
        return
    assert isinstance(labels, LabelResult)
    assert labels.kept.keep.to_pylist() == [stays, False]
    assert labels.kept.value.to_pylist() == [8.0, 9.0]
    cut = Encode(max_length=limit, overlong="truncate-left").label(table, ctx)["input_ids"].to_pylist()
    whole = Encode().label(table, ctx)["input_ids"].to_pylist()
    assert cut == [ids[-limit:] for ids in whole]
    with pytest.raises(DataError, match=f"at most {limit} tokens"):
        Encode(max_length=limit, overlong="error").label(table, ctx)


def test_truncation_keeps_mask_and_ids_together(tokenizer: Tokenizer) -> None:
    columns = Mask(max_length=4, overlong="truncate-left").label(rows(ROW, ROW), context(tokenizer))
    assert columns["loss_mask"].to_pylist() == [[0, 1, 1, 1]] * 2
    assert [len(ids) for ids in columns["input_ids"].to_pylist()] == [4, 4]


def test_pairs_go_when_either_side_is_too_long(tokenizer: Tokenizer) -> None:
    table = pa.table({"a": pa.array([ROW, ROW], PIECES), "b": pa.array([ROW, ROW * 2], PIECES)})
    labels = Encode(columns=(("a", "chosen_ids"), ("b", "rejected_ids")), max_length=8).label(table, context(tokenizer))
    assert isinstance(labels, LabelResult)
    assert labels.kept.keep.to_pylist() == [True, False]
    assert set(labels.columns) == {"chosen_ids", "rejected_ids"}


def tokens(lengths: list[int]) -> pa.Table:
    ids = [list(range(length)) for length in lengths]
    masks = [[row % 2] * length for row, length in enumerate(lengths)]
    names = [f"s{row}" for row in range(len(lengths))]
    columns = {"sample_id": names, "input_ids": ids, "loss_mask": masks}
    return TOKENS.dropping("source").conform(pa.table(columns, schema=TOKENS.dropping("source").arrow))


def test_first_fit_decreasing_by_hand() -> None:
    assert first_fit_decreasing(np.array([5, 7, 3, 2, 4, 1]), 10) == [[1, 2], [0, 4, 5], [3]]
    assert first_fit_decreasing(np.array([], np.int64), 10) == []
    assert first_fit_decreasing(np.array([10, 10]), 10) == [[0], [1]]


@given(lengths=st.lists(st.integers(0, 40), max_size=60), capacity=st.integers(1, 40))
def test_packing_conserves_rows_and_tokens(lengths: list[int], capacity: int) -> None:
    table = tokens(lengths)
    done = Pack(capacity=capacity).gather(table, Context(seed=2))
    packs = done.rows.to_pylist()
    fits = [f"s{row}" for row, length in enumerate(lengths) if 0 < length <= capacity]
    assert sorted(chained(pack["sample_ids"] for pack in packs)) == sorted(fits)
    source = {entry["sample_id"]: entry for entry in table.to_pylist()}
    for pack in packs:
        assert sum(pack["lengths"]) == len(pack["input_ids"]) == len(pack["loss_mask"]) <= capacity
        assert pack["input_ids"] == chained(source[name]["input_ids"] for name in pack["sample_ids"])
        assert pack["loss_mask"] == chained(source[name]["loss_mask"] for name in pack["sample_ids"])
    gone = 0 if done.rejected is None else done.rejected.num_rows
    assert gone + len(fits) == len(lengths)
    least = sum(len(source[name]["input_ids"]) for name in fits) / capacity
    assert len(packs) <= 2 * least + 1


def test_rows_over_capacity_are_rejected_with_their_length() -> None:
    done = Pack(capacity=3).gather(tokens([3, 4, 0]), Context())
    rejected = [(entry["reason"], entry["value"]) for entry in done.rejected.to_pylist()]
    assert rejected == [("longer-than-capacity", 4.0), ("empty", 0.0)]


def test_the_seed_orders_packs_and_never_changes_them() -> None:
    table = tokens([3, 2, 1] * 20)
    first, again, other = (Pack(capacity=4).gather(table, Context(seed=seed)).rows for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)
    assert sorted(first["pack_id"].to_pylist()) == sorted(other["pack_id"].to_pylist())


def test_wrong_settings_are_refused() -> None:
    for make in (
        functools.partial(Pack, capacity=0),
        functools.partial(Encode, max_length=0),
        functools.partial(Mask, max_length=-1),
        functools.partial(Train, vocab_size=200),
        functools.partial(Train, template="plian"),
    ):
        with pytest.raises(ConfigError):
            make()
