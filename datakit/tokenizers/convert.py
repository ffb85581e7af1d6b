r"""Vocabularies of other programs as the `tokenizers` library's JSON, with the same ids for every text.

Sentencepiece      BPE: every way to join two pieces into a third is a merge, ranked by the third's score. Unigram: the
                   scores. Blanks become U+2581 and, with add_dummy_prefix, one stands before every stretch between
                   control tokens, as sentencepiece puts one before every text. Control pieces are special tokens.
                   User-defined ones are cut out before anything else (BPE) or score 0, above all others (Unigram).
GPT-2              vocab.json and merges.txt over bytes.

What still differs: with BPE, a text that is nothing but one user-defined piece gets no dummy prefix; with Unigram, two
ways to cut a text that score the same to the last bit of a float32.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from datakit.tokenizers.prefix import BEGINNING
from datakit.tokenizers.spm import BLANK, Kind, Spm, refused
from schemas.errors import DataError, printable
from schemas.store.storage import shown
from schemas.tokenizer import parsed

_NEVER = 1e6
"""How much below the rarest piece those stand that no text may spell."""


def of_sentencepiece(model: Spm, legacy: bool, where: str) -> str:
    """The JSON of a sentencepiece model. Without `legacy`, text behind a control token gets no blank of its own, as in
    transformers' `legacy: false`.
    """
    defined = [piece.text for piece in model.pieces if piece.kind is Kind.USER_DEFINED]
    if defined and model.charsmap and model.bpe:  # the library panics where both touch a text
        raise refused(where, "user-defined pieces together with a normalisation table")
    steps = _normalizers(model, defined if model.bpe else [], legacy)
    blank = model.dummy_prefix and not legacy
    metaspace = {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "first", "split": False}
    made = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(model),
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "pre_tokenizer": metaspace if blank else None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": _decoders(model)},
        "model": _bpe(model, where) if model.bpe else _unigram(model),
    }
    return json.dumps(made, ensure_ascii=False)


def of_gpt2(vocab: str, merges: str, options: Mapping[str, Any], where: str) -> str:
    """The JSON of a byte-level vocabulary. `options` are those of tokenizer_config.json (`add_prefix_space`)."""
    ids = parsed(vocab, where)
    if not ids or not all(isinstance(number, int) and number >= 0 for number in ids.values()):
        raise DataError("bad-tokenizer", "vocab.json does not map tokens to ids", where=shown(where))
    lines = [line for line in merges.split("\n") if line.strip() and not line.startswith("#version")]
    pairs = [line.rstrip("\r").split(" ") for line in lines]
    odd = next((pair for pair in pairs if len(pair) != 2 or pair[0] + pair[1] not in ids), None)
    if odd is not None:
        message = f"merges.txt joins {printable(' '.join(odd))}, which vocab.json does not hold"
        raise DataError("bad-tokenizer", message, where=shown(where), kept="nothing was written")
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    made: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {**bytes_, "add_prefix_space": bool(options.get("add_prefix_space", False))},
        "post_processor": None,
        "decoder": bytes_,
        "model": {"type": "BPE", "unk_token": None, "fuse_unk": False, "vocab": ids, "merges": pairs},
    }
    return json.dumps(made, ensure_ascii=False)


def specialised(tokenizer_json: str, tokens: list[str]) -> str:
    """The JSON with `tokens`, where the vocabulary has them, marked as special."""
    data = parsed(tokenizer_json, "")
    added = {token["content"]: token for token in data.get("added_tokens") or []}
    vocab = data["model"]["vocab"]
    for token in dict.fromkeys(tokens):
        if token in added:
            added[token]["special"] = True
        elif token in vocab and isinstance(vocab, dict):
            added[token] = _token(vocab[token], token, special=True)
    data["added_tokens"] = sorted(added.values(), key=lambda token: int(token["id"]))
    return json.dumps(data, ensure_ascii=False)


def _token(number: int, text: str, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    return {"id": number, "content": text, **flags, "normalized": not special, "special": special}


def _added(model: Spm) -> list[dict[str, Any]]:
    """Control pieces, matched in the text as given; user-defined ones, matched once blanks are written out."""
    kinds = {Kind.CONTROL: True, Kind.UNKNOWN: True} | ({Kind.USER_DEFINED: False} if model.bpe else {})
    pieces = enumerate(model.pieces)
    return [_token(number, piece.text, kinds[piece.kind]) for number, piece in pieces if piece.kind in kinds]


def _normalizers(model: Spm, defined: list[str], legacy: bool) -> list[dict[str, Any]]:
    def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
        return {"type": "Replace", "pattern": pattern, "content": content}

    steps: list[dict[str, Any]] = []
    if model.charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()})
    if model.remove_extra_whitespaces:
        blanks = " " if any(text.endswith(BLANK) for text in defined) else f"[ {BLANK}]"
        steps += [replace({"Regex": rf"{BEGINNING} +"}, ""), replace({"Regex": rf"{blanks}+\z"}, "")]
        steps.append(replace({"Regex": " {2,}"}, " "))
    blank = BLANK if model.escape_whitespaces else " "
    written = [replace({"String": " "}, BLANK)] if model.escape_whitespaces else []
    if not model.dummy_prefix or not legacy:
        return steps + written
    if not defined:
        return [*steps, {"type": "Prepend", "prepend": blank}, *written]
    # The library normalises a user-defined piece too before it looks for it: alone it must stay as it is.
    alone = "|".join(re.escape(text) for text in sorted(defined, key=len, reverse=True))
    return [*steps, *written, replace({"Regex": rf"{BEGINNING}(?!(?:{alone})\z)"}, blank)]


def _decoders(model: Spm) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": BLANK}, "content": " "}]
    steps += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if model.dummy_prefix or model.remove_extra_whitespaces:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return steps


def _bpe(model: Spm, where: str) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": model.pieces[model.unknown].text,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "ignore_merges": False,
        "vocab": {piece.text: number for number, piece in enumerate(model.pieces)},
        "merges": [pair for _, _, _, pair in sorted(_joins(model, where))],
    }


def _joins(model: Spm, where: str) -> Iterator[tuple[float, int, int, list[str]]]:
    """Every pair of pieces that makes a third, with what it is ranked by: the third's score, its id, the cut."""
    known = {piece.text for piece in model.pieces if piece.kind is Kind.NORMAL}
    for number, piece in enumerate(model.pieces):
        text = piece.text
        if piece.kind is not Kind.NORMAL or len(text) == 1:
            continue
        lost = [character for character in text if character not in known]
        if lost:
            raise refused(where, f"the piece {printable(text)}, of which {printable(lost[0])} is no piece itself,")
        for cut in range(1, len(text)):
            if text[:cut] in known and text[cut:] in known:
                yield -piece.score, number, cut, [text[:cut], text[cut:]]


def _unigram(model: Spm) -> dict[str, Any]:
    """A Unigram model. Pieces that no text may spell get a score that no path through a text takes."""
    hidden = (Kind.CONTROL, Kind.BYTE, Kind.UNKNOWN)
    never = min((piece.score for piece in model.pieces if piece.kind is Kind.NORMAL), default=0.0) - _NEVER
    vocab = [[piece.text, never if piece.kind in hidden else piece.score] for piece in model.pieces]
    return {"type": "Unigram", "unk_id": model.unknown, "vocab": vocab, "byte_fallback": model.byte_fallback}
