"""Sentencepiece models: our reader on hostile bytes, and ids equal to sentencepiece's own."""

from __future__ import annotations

import io
import itertools
import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datakit.tokenizers import convert, spm
from datakit.tokenizers.protobuf import fields
from datakit.tokenizers.spm import Kind
from schemas.errors import DataError

TEXTS = [
    "",
    " ",
    "ab",
    " ab",
    "a  b ",
    "abab ba",
    "<s>a</s>",
    "<0x41>",
    "<sep>b",
    "a<sep><sep> b",
    "é🎉",
    "\n\ta",
    "▁a▁▁",
]


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | float | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return (
        varint(number << 3 | 5) + struct.pack("<f", value)
        if isinstance(value, float)
        else varint(number << 3) + varint(value)
    )


def model(
    *pieces: tuple[str, float, Kind], trainer: dict[int, Any] | None = None, rules: dict[int, Any] | None = None
) -> bytes:
    out = [field(1, field(1, t.encode()) + field(2, s) + field(3, int(k))) for t, s, k in pieces]
    out.append(field(2, b"".join(field(n, v) for n, v in (trainer or {3: 2}).items())))
    out.append(field(3, b"".join(field(n, v) for n, v in (rules or {4: 0}).items())))
    return b"".join(out)


SMALL = (
    ("<unk>", 0.0, Kind.UNKNOWN),
    ("<s>", 0.0, Kind.CONTROL),
    ("</s>", 0.0, Kind.CONTROL),
    ("<sep>", 0.0, Kind.USER_DEFINED),
    *((f"<0x{n:02X}>", 0.0, Kind.BYTE) for n in range(256)),
    ("ab", -1.0, Kind.NORMAL),
    ("▁a", -2.0, Kind.NORMAL),
    ("▁ab", -3.0, Kind.NORMAL),
    ("▁", -4.0, Kind.NORMAL),
    ("a", -5.0, Kind.NORMAL),
    ("b", -6.0, Kind.NORMAL),
)


def ours(data: bytes, legacy: bool = True) -> Any:
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(convert.of_sentencepiece(spm.read(data, "model"), legacy, "model"))
    made.encode_special_tokens = True
    return made


def tokens(data: bytes, text: str, legacy: bool = True) -> list[str]:
    return list(ours(data, legacy).encode(text, add_special_tokens=False).tokens)


def test_fields_by_hand() -> None:
    data = field(1, 150) + field(2, b"ab") + field(3, 0.5) + varint(4 << 3 | 1) + struct.pack("<d", 2.5) + field(5, -1)
    assert list(fields(data, "x")) == [(1, 150), (2, b"ab"), (3, 0.5), (4, 2.5), (5, (1 << 64) - 1)]
    for foul in (b"\x0a\xff", b"\x80" * 11, b"\x0b", b"\x00", b"\x0d\x00", b"\x09\x00", field(2, b"ab")[:-1]):
        with pytest.raises(DataError, match="not a whole protocol-buffer"):
            list(fields(foul, "x"))


def test_a_small_model_by_hand() -> None:
    data = model(*SMALL, trainer={3: 2, 35: 1, 43: -1})
    read = spm.read(data, "model")
    assert (read.bpe, read.byte_fallback, read.dummy_prefix, read.unknown) == (True, True, True, 0)
    assert read.special == {"bos_token": "<s>", "eos_token": "</s>"}
    assert tokens(data, "ab") == ["▁ab"], "ab first, then ▁ and ab"
    assert tokens(data, " aab") == ["▁", "▁a", "ab"], "ab before ▁a"
    assert tokens(data, "a") == ["▁a"]
    assert tokens(data, "b<sep>a") == ["▁", "b", "<sep>", "a"], "no blank behind a user-defined piece"
    assert tokens(data, "<s>") == ["▁", "<0x3C>", "<0x73>", "<0x3E>"], "control pieces are never read in a text"
    assert tokens(data, "é") == ["▁", "<0xC3>", "<0xA9>"]
    unknown = ("<unk>", *(piece for piece in SMALL[1:] if piece[2] is not Kind.BYTE))
    assert tokens(model(SMALL[0], *unknown[1:]), "aé🎉b") == ["▁a", "<unk>", "b"], "a run of unknowns is one"


def test_unigram_spells_no_control_and_no_byte_piece() -> None:
    letters = tuple((c, -9.0, Kind.NORMAL) for c in "<>/s0x41")
    data = model(*SMALL, *letters, trainer={3: 1, 35: 1})
    assert tokens(data, "<s>") == ["▁", "<", "s", ">"]
    assert tokens(data, "<0x41>") == ["▁", "<", "0", "x", "4", "1", ">"]
    assert tokens(data, "ab<sep>é") == ["▁ab", "<sep>", "<0xC3>", "<0xA9>"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "pieces for the unknown"),
        (b"not a model at all", "protocol-buffer"),
        (model(*SMALL, *SMALL), "stand twice"),
        (model(*SMALL, trainer={3: 4}), "CHAR"),
        (model(*SMALL, trainer={3: 2, 24: 1}), "treat_whitespace_as_suffix"),
        (model(*SMALL[:50], trainer={3: 2, 35: 1}), "256 byte pieces"),
        (model(*SMALL, ("x", 0.0, Kind.UNUSED)), "unused"),
        (model(*SMALL, ("x", float("nan"), Kind.NORMAL)), "score"),
        (model(*SMALL, ("x" * 600, 0.0, Kind.NORMAL)), "600 characters"),
        (model(*SMALL, ("", 0.0, Kind.NORMAL)), "0 characters"),
        (model(*SMALL, ("abc", 0.0, Kind.NORMAL)), "no piece itself"),
        (model(*SMALL, ("<0xZZ>", 0.0, Kind.BYTE)), "byte piece"),
        (model(*SMALL) + field(1, field(1, b"\xff\xfe")), "utf-8"),
        (model(*SMALL) + field(1, field(3, 77)), "77"),
        (model(*SMALL) + field(1, 5), "a number where a message"),
        (model(*SMALL) + field(5, field(2, b"x")), "denormaliser"),
        (model(*SMALL, rules={2: b"xxxx"}), "normalisation table"),
    ],
)
def test_broken_and_strange_models_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        convert.of_sentencepiece(spm.read(data, "model"), True, "model")
    assert message in caught.value.render()


@settings(max_examples=200)
@given(st.data())
def test_damage_is_a_data_error_or_another_model(data: st.DataObject) -> None:
    whole = bytearray(model(*SMALL[:3], *SMALL[-6:]))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        read = spm.read(bytes(whole[:cut]), "model")
        made = convert.of_sentencepiece(read, True, "model")
    except DataError:
        return
    assert len(json.loads(made)["model"]["vocab"]) == len(read.pieces), "a piece is lost"


def spellings(seed: int, alphabet: list[str], count: int) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choice(alphabet) for _ in range(chance.randint(1, 30))) for _ in range(count)]


REAL = [
    "tokenizer-mistral/tokenizer.model.v1",
    "tokenizer-mistral/tokenizer.model.v3",
    "model-stories260k/hf/tokenizer.model",
]


@pytest.mark.parametrize("name", REAL)
def test_real_models_give_sentencepieces_ids(shared_data: Path, name: str) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    data = (shared_data / name).read_bytes()
    theirs, own = sentencepiece.SentencePieceProcessor(model_proto=data), ours(data)
    texts = (shared_data / "tokenizer-gpt2/vectors.inp").read_text().split("\n__ggml_vocab_test__\n")
    known = [piece.text.replace("▁", " ") for piece in spm.read(data, name).pieces if piece.kind is Kind.NORMAL]
    texts += TEXTS + spellings(0, list("ab c<>/s0x▁\n\té漢🎉etaoinsh"), 200) + spellings(1, known, 200)
    ids = theirs.encode(texts)
    assert [one.ids for one in own.encode_batch(texts, add_special_tokens=False)] == ids
    assert own.decode_batch(ids) == theirs.decode(ids)


RULES: list[dict[str, Any]] = [
    {},
    {"normalization_rule_name": "nmt_nfkc_cf", "split_digits": True, "byte_fallback": True},
    {
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "user_defined_symbols": ["<sep>", "[A]"],
    },
    {
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "user_defined_symbols": ["<sep>"],
        "byte_fallback": True,
    },
]


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_models_of_every_kind_give_sentencepieces_ids(kind: str, rules: dict[str, Any]) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    chance, made = random.Random(5), io.BytesIO()
    words = ["".join(chance.choice("abcdeé<>") for _ in range(chance.randint(1, 5))) for _ in range(40)]
    lines = [" ".join(chance.choices(words, k=8)) for _ in range(150)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=made, model_type=kind, vocab_size=330, hard_vocab_limit=False,
        minloglevel=2, character_coverage=1.0, **rules,
    )  # fmt: skip
    theirs, own = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue()), ours(made.getvalue())
    texts = lines[:20] + spellings(2, [*"abcdeé ", " ", "ﬁ", "①", "漢", "<sep>", "[A]"], 120)
    texts = [text for text in texts if text.strip() not in rules.get("user_defined_symbols", [])]
    ids = [one.ids for one in own.encode_batch(texts, add_special_tokens=False)]
    differ = [text for text, one, other in zip(texts, ids, theirs.encode(texts), strict=True) if one != other]
    assert len(differ) <= (0 if kind == "bpe" else 3), differ  # two ways that score the same to the last bit


def test_the_merge_loop_of_llama2_c_agrees(shared_data: Path) -> None:
    """run.c of llama2.c joins the best-scored neighbours until none are left; its file holds pieces with scores."""
    data, at, pieces = (shared_data / "model-stories260k/tok512.bin").read_bytes(), 4, []
    while at < len(data):
        score, size = struct.unpack_from("<fi", data, at)
        pieces.append((data[at + 8 : at + 8 + size], score))
        at += 8 + size
    ids = {piece: number for number, (piece, _) in enumerate(pieces)}
    own = ours((shared_data / "model-stories260k/hf/tokenizer.model").read_bytes())
    for text in ["Once upon a time, there was a little girl.", " the  dog", 'Zoë said "hi"!\n', "aaaa the the"]:
        row = [n for c in " " + text for n in ([ids[c.encode()]] if c.encode() in ids else [b + 3 for b in c.encode()])]
        while True:
            pairs = [pieces[a][0] + pieces[b][0] for a, b in itertools.pairwise(row)]
            best = max(
                (at for at, pair in enumerate(pairs) if pair in ids),
                key=lambda at: pieces[ids[pairs[at]]][1],
                default=-1,
            )
            if best < 0:
                break
            row[best : best + 2] = [ids[pairs[best]]]
        assert own.encode(text, add_special_tokens=False).ids == row


def test_without_legacy_no_blank_stands_behind_a_control_token() -> None:
    data = model(*SMALL, trainer={3: 2, 35: 1})
    converted = json.loads(convert.of_sentencepiece(spm.read(data, "model"), False, "model"))
    assert converted["pre_tokenizer"]["prepend_scheme"] == "first"
    assert tokens(data, "ab", legacy=False) == ["▁ab"]
