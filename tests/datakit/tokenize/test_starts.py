"""tokenize.starts: the learnt text and where in it each token begins, by hand and of two vocabularies."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from datakit.tokenize import Starts
from datakit.tokenizers.tokenizer import Tokenizer
from schemas import TOKENS
from schemas.errors import DataError
from tests.datakit.fakes import Example, tokenizer

ROWS = TOKENS.conform(pa.table({"sample_id": ["a", "b"], "input_ids": [[5, 6, 7], []], "loss_mask": [[0, 1, 1], []]}))
EXAMPLES = [Example(Starts(), (ROWS,), tokenizer())]


def of_bytes(*words: str) -> Tokenizer:
    """A vocabulary of bytes, in the order of GPT-2's letters for them, with `words` and the control token <end>."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: at for at, letter in enumerate(letters)}
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            vocabulary.setdefault(word[:end], len(vocabulary))
            merges.append((word[: end - 1], word[end - 1]))
    own = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    own.add_special_tokens(["<end>"])
    return Tokenizer("bytes", own.to_str(), eos_token="<end>")


def placed(own: Tokenizer, parts: list[tuple[str, int]]) -> tuple[str, list[int], list[int]]:
    """Text, places and ids of a row of these texts, each learnt or not; `<end>` is the control token."""
    ids: list[int] = []
    mask: list[int] = []
    for text, learnt in parts:
        more = [own.id_of(text)] if text == "<end>" else own.encode([text])[0]
        ids += more
        mask += [learnt] * len(more)
    table = TOKENS.conform(pa.table({"sample_id": ["a"], "input_ids": [ids], "loss_mask": [mask]}))
    made = Starts().label(table, type("Ctx", (), {"resources": {"tokenizer": own}})())
    return made["own_text"][0].as_py(), made["own_starts"][0].as_py(), ids


def test_letters_of_several_bytes_blanks_and_control_tokens() -> None:
    text, places, ids = placed(of_bytes(), [("q:", 0), (" aö", 1), ("<end>", 1), ("q", 0), ("b", 1), ("<end>", 1)])
    # of the text "aöb": the blank before it has no place, nor have the second byte of ö and what ends a turn
    assert text == "aöb"
    assert places == [-1, -1, -1, 0, 1, -1, -1, -1, 2, -1] and len(ids) == len(places)


def test_two_vocabularies_have_one_text_and_meet_where_both_begin_a_token() -> None:
    parts = [("q ", 0), ("the end", 1), ("<end>", 1)]
    (one, small, _), (other, large, _) = (placed(own, parts) for own in (of_bytes(), of_bytes("the", "Ġend")))
    assert one == other == "the end"
    assert small == [-1, -1, 0, 1, 2, 3, 4, 5, 6, -1] and large == [-1, -1, 0, 3, -1]


def test_packs_are_refused(tmp_path: Path) -> None:
    packs = ROWS.append_column("lengths", pa.array([[3], []], pa.list_(pa.int32())))
    with pytest.raises(DataError, match="packs of several"):
        Starts().label(packs, type("Ctx", (), {"resources": {"tokenizer": of_bytes()}})())
