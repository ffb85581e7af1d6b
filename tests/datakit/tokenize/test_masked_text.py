"""What a person sees of masks: marks where the mask says so, the share of all rows, nothing that steers a terminal."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.run.resource import Resource
from datakit.template import Chat
from datakit.tokenize import Mask, Pack
from datakit.tokenizers.masked_text import masked_text
from datakit.tokenizers.tokenizer import Tokenizer
from schemas import CHATS, MESSAGES, PACKS, PAIRS, TOKENS, Dataset
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import letters, small_tokenizer


def chats(folder: Path, *answers: str) -> Dataset:
    turns = [
        [{"role": "user", "content": f"q{at}"}, {"role": "assistant", "content": a}] for at, a in enumerate(answers)
    ]
    rows = {"chat_id": [f"c{at}" for at in range(len(answers))], "messages": pa.array(turns, MESSAGES)}
    return Dataset.from_arrow(CHATS.conform(filled(rows, CHATS)), CHATS, str(folder / "chats"))


def filled(rows: dict[str, Any], kind: Any) -> pa.Table:
    count = len(next(iter(rows.values())))
    return pa.table({c.name: rows.get(c.name, pa.nulls(count, c.type)) for c in kind.columns})


RESOURCE = {"tokenizer": Resource(letters().identity, letters)}  # type: ignore[attr-defined]


def tokens(folder: Path, *answers: str) -> Dataset:
    texts = apply(Chat(template="text"), [chats(folder, *answers)], str(folder / "texts"), resources=RESOURCE)
    return apply(Mask(id_column="chat_id"), [texts], str(folder / "tokens"), resources=RESOURCE)


def test_token_rows_with_what_is_learnt_in_marks(tmp_path: Path) -> None:
    made = tokens(tmp_path, "one", "two words", "three", "four")
    shown = masked_text(made, 2, letters())  # type: ignore[arg-type]
    assert "<bos>q0[[one<eos>]]" in str(shown) and "<bos>q1[[two words<eos>]]" in str(shown)
    assert "three" not in str(shown), "the first rows alone"
    masks = made.read(["loss_mask"])["loss_mask"].to_pylist()
    assert (shown.learnt, shown.total) == (sum(map(sum, masks)), sum(map(len, masks))), "the share is of all rows"
    assert f"{shown.learnt} of {shown.total} tokens are learnt ({shown.learnt / shown.total:.1%})" in str(shown)
    assert "input_ids of c0: 4 of 7 tokens" in str(shown)
    assert "q0\x1b[1;32mone<eos>\x1b[0m" in shown.text(colour=True)


def test_the_marks_are_the_mask_token_by_token(tmp_path: Path) -> None:
    """Any mask at all, against a loop over letters."""
    tokenizer: Any = letters()
    ids = tokenizer.encode(["abcdefgh"])[0]
    masks = [[0, 1, 1, 0, 0, 1, 0, 1], [1] * 8, [0] * 8, [1, 0] * 4]
    rows = {"sample_id": list("wxyz"), "input_ids": pa.array([ids] * 4, pa.list_(pa.int32()))}
    rows["loss_mask"] = pa.array(masks, pa.list_(pa.int8()))
    made = Dataset.from_arrow(TOKENS.conform(filled(rows, TOKENS)), TOKENS, str(tmp_path / "d"))
    for row, mask in zip(masked_text(made, 9, tokenizer).rows, masks, strict=True):
        letters_ = "".join(f"[{x}]" if m else x for x, m in zip("abcdefgh", mask, strict=True)).replace("][", "")
        assert "".join(f"[{text}]" if learnt else text for text, learnt in row.sequences[0]) == letters_


def test_pieces_need_no_tokenizer_and_pairs_show_both_sides(tmp_path: Path) -> None:
    made = apply(Chat(template="text"), [chats(tmp_path, "one")], str(tmp_path / "texts"), resources=RESOURCE)
    assert "<bos>q0[[one<eos>]]" in str(masked_text(made)) and "characters are learnt" in str(masked_text(made))
    tokenizer: Any = letters()
    sides = {f"{side}_ids": pa.array([tokenizer.encode([text])[0]], pa.list_(pa.int32())) for side, text in
             (("chosen", "good"), ("rejected", "bad"))}  # fmt: skip
    masks = {"chosen_mask": [[0, 0, 1, 1]], "rejected_mask": [[0, 1, 1]]}
    rows = {"pair_id": ["p"], **sides, **{name: pa.array(m, pa.list_(pa.int8())) for name, m in masks.items()}}
    pairs = Dataset.from_arrow(PAIRS.conform(filled(rows, PAIRS)), PAIRS, str(tmp_path / "pairs"))
    text = str(masked_text(pairs, tokenizer=tokenizer))
    assert "go[[od]]" in text and "b[[ad]]" in text and "4 of 7 tokens" in text


def test_the_sequences_of_a_pack_stand_on_lines_of_their_own(tmp_path: Path) -> None:
    data = tokens(tmp_path, "one", "two")
    packed = apply(Pack(capacity=40), [data], str(tmp_path / "packs"))
    (row,) = masked_text(packed, tokenizer=letters()).rows  # type: ignore[arg-type]
    texts = ["".join(text for text, _ in segments) for segments in row.sequences]
    assert sorted(texts) == ["<bos>q0one<eos>", "<bos>q1two<eos>"]


def test_nothing_in_a_text_steers_the_terminal_or_the_page(tmp_path: Path) -> None:
    texts = chats(tmp_path, "<script>\x1b[2J\u202e")
    made = apply(Chat(template="text"), [texts], str(tmp_path / "texts"), resources=RESOURCE)
    shown = masked_text(made)
    assert "\x1b" not in str(shown) and "\u202e" not in str(shown)
    assert re.findall(r"<(?!/?(?:div|pre|mark)\b)[a-z]", shown._repr_html_()) == []
    assert "<mark>&lt;script&gt;" in shown._repr_html_()


def test_a_letter_of_several_tokens_is_not_lost(shared_data: Path, tmp_path: Path) -> None:
    """Against the whole decoded text, a mask that changes inside a letter and behind blanks."""
    tokenizer = Tokenizer.of_folder(str(shared_data / "tokenizer-gpt2"))
    ids = tokenizer.encode([" Löwe 🦁 und  Bär"])[0]
    rows = {"sample_id": ["a"], "input_ids": pa.array([ids], pa.list_(pa.int32()))}
    rows["loss_mask"] = pa.array([[at // 2 % 2 for at in range(len(ids))]], pa.list_(pa.int8()))
    made = Dataset.from_arrow(TOKENS.conform(filled(rows, TOKENS)), TOKENS, str(tmp_path / "d"))
    (row,) = masked_text(made, tokenizer=tokenizer).rows
    text = "".join(text for text, _ in row.sequences[0])
    assert text.replace("\ufffd", "").startswith(" L") and "und  B" in text and text.endswith("r")


def one_row(folder: Path, ids: Any, mask: Any, **more: Any) -> Dataset:
    rows = {"input_ids": pa.array([ids], pa.list_(pa.int32())), "loss_mask": pa.array([mask], pa.list_(pa.int8()))}
    kind = TOKENS
    if more:
        kind, rows["lengths"] = PACKS, pa.array([more["lengths"]], PACKS["lengths"].type)
        rows["pack_id"] = pa.array(["a"])
        rows["sample_ids"] = pa.array([["a"] * 2], PACKS["sample_ids"].type)
    else:
        rows["sample_id"] = pa.array(["a"])
    return Dataset.from_arrow(kind.conform(filled(rows, kind)), kind, str(folder / "d"))


@pytest.mark.parametrize(
    ("ids", "mask", "slug"),
    [
        ([9, 10, 11], [], "mask-length"), ([9, 10, 11], [1], "mask-length"), ([9, 10], [1, None], "mask-length"),
        ([9, 10], [1, 2], "mask-length"), ([9, None], [1, 1], "wrong-tokenizer"), ([9, -5], [1, 1], "wrong-tokenizer"),
        ([9, 600_000], [1, 1], "wrong-tokenizer"),
    ],
)  # fmt: skip
def test_rows_whose_mask_is_not_their_ids_are_named(ids: Any, mask: Any, slug: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as fault:
        masked_text(one_row(tmp_path, ids, mask), tokenizer=letters())  # type: ignore[arg-type]
    assert fault.value.slug == slug and "input_ids of a" in fault.value.what


@pytest.mark.parametrize("lengths", [[2], [2, None], [4, -1], [2, 2]])
def test_lengths_that_are_not_the_ids_are_named(lengths: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError) as fault:
        masked_text(one_row(tmp_path, [9, 10, 11], [0, 1, 1], lengths=lengths), tokenizer=letters())  # type: ignore[arg-type]
    assert fault.value.slug == "mask-length"


def test_ten_thousand_changes_of_a_mask_take_no_more_time_than_their_number(tmp_path: Path) -> None:
    """Half of 20,000 letters are learnt, each beside one that is not; whole prefixes would be 200 million letters."""
    tokenizer: Any = letters()
    ids = tokenizer.encode(["ab" * 10_000])[0]
    made = one_row(tmp_path, ids, [0, 1] * 10_000)
    began = time.process_time()
    (row,) = masked_text(made, tokenizer=tokenizer).rows
    assert time.process_time() - began < 10
    assert row.sequences == ((("a", False), ("b", True)) * 10_000,)


def test_brackets_of_a_text_are_no_marks(tmp_path: Path) -> None:
    made = tokens(tmp_path, "x[[y]]", "[1]")
    text = str(masked_text(made, tokenizer=letters()))  # type: ignore[arg-type]
    assert "q0[[x\\[\\[y\\]\\]<eos>]]" in text and "q1[[\\[1]<eos>]]" in text
    assert text.count("[[") == text.count("]]") == 2, "one mark for each answer"
    assert "x[[y]]" in masked_text(made, tokenizer=letters()).text(colour=True)  # type: ignore[arg-type]


def test_what_cannot_be_shown_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither token ids"):
        masked_text(chats(tmp_path, "a"))
    (tmp_path / "t").mkdir()
    bare = apply(Pack(capacity=40), [tokens(tmp_path / "t", "a")], str(tmp_path / "packs"))
    with pytest.raises(ConfigError) as fault:
        masked_text(bare)
    assert "--tokenizer" in fault.value.next
    with pytest.raises(DataError, match="another tokenizer"):
        masked_text(bare, tokenizer=small_tokenizer())
