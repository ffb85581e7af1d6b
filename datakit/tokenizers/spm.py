"""A sentencepiece model file as plain values: pieces with scores and kinds, and what decides how text is cut.

Read with our own reader (`datakit.tokenizers.protobuf`); field numbers are those of sentencepiece_model.proto. What
would change ids and is not understood is refused by name.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datakit.tokenizers.protobuf import Value, fields
from schemas.errors import DataError, printable
from schemas.store.storage import shown

BLANK = "\u2581"
"""What sentencepiece writes for a blank."""

_PIECES, _LONGEST = 1 << 21, 512
_UNIGRAM, _BPE = 1, 2
_NAMES = {_UNIGRAM: "Unigram", _BPE: "BPE", 3: "WORD", 4: "CHAR"}


class Kind(enum.IntEnum):
    """The type of a piece, as `sentencepiece_model.proto` numbers it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """One entry; its place in the file is its id. The score is a log-probability (Unigram) or a negated rank (BPE)."""

    text: str
    score: float
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class Spm:
    """A model. `special` holds the pieces at bos_id, eos_id and pad_id; `charsmap` is the compiled normalisation."""

    bpe: bool
    pieces: tuple[Piece, ...]
    byte_fallback: bool = False
    charsmap: bytes = b""
    dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    special: Mapping[str, str] = field(default_factory=dict)

    @property
    def unknown(self) -> int:
        """The id of the piece for what cannot be spelt."""
        return next(number for number, piece in enumerate(self.pieces) if piece.kind is Kind.UNKNOWN)


def read(data: bytes, where: str) -> Spm:
    """The model in `data`; `DataError` for what is broken, contradicts itself or is not supported."""
    pieces: list[Piece] = []
    trainer: dict[int, Value] = {}
    rules: dict[int, Value] = {}
    for number, value in fields(data, where):
        if number == 1:
            if len(pieces) >= _PIECES:
                raise refused(where, f"more than {_PIECES:,} pieces")
            pieces.append(_piece(_message(value, where), len(pieces), where))
        elif number == 2:
            trainer |= dict(fields(_message(value, where), where))
        elif number == 3:
            rules |= dict(fields(_message(value, where), where))
        elif number == 5 and dict(fields(_message(value, where), where)).get(2):
            raise refused(where, "a denormaliser")
    _check_pieces(pieces, where)
    kind = trainer.get(3, _UNIGRAM)
    if kind not in (_UNIGRAM, _BPE):
        raise refused(where, f"model type {_NAMES.get(_whole(kind), kind)}")
    if trainer.get(24):
        raise refused(where, "treat_whitespace_as_suffix")
    byte_fallback = bool(trainer.get(35))
    if byte_fallback and sum(piece.kind is Kind.BYTE for piece in pieces) != 256:
        raise refused(where, "byte fallback without 256 byte pieces")
    return Spm(
        bpe=kind == _BPE,
        pieces=tuple(pieces),
        byte_fallback=byte_fallback,
        charsmap=_message(rules.get(2, b""), where),
        dummy_prefix=bool(rules.get(3, 1)),
        remove_extra_whitespaces=bool(rules.get(4, 1)),
        escape_whitespaces=bool(rules.get(5, 1)),
        special=_special(pieces, trainer),
    )


def _piece(data: bytes, number: int, where: str) -> Piece:
    values: dict[int, Any] = dict(fields(data, where))
    try:
        text = bytes(values.get(1, b"")).decode()
        kind = Kind(values.get(3, Kind.NORMAL))
        score = float(values.get(2, 0.0))
    except (TypeError, ValueError) as error:
        raise _broken(where, f"piece {number}: {error}") from error
    if not math.isfinite(score) or not 0 < len(text) <= _LONGEST:
        raise _broken(where, f"piece {number} has score {score} and {len(text)} characters")
    return Piece(text, score, kind)


def _check_pieces(pieces: list[Piece], where: str) -> None:
    texts = {piece.text for piece in pieces}
    unknown = sum(piece.kind is Kind.UNKNOWN for piece in pieces)
    if len(texts) != len(pieces):
        raise _broken(where, f"{len(pieces) - len(texts)} pieces stand twice")
    if unknown != 1:
        raise _broken(where, f"{unknown} pieces for the unknown, not one")
    if any(piece.kind is Kind.UNUSED for piece in pieces):
        raise refused(where, "pieces marked as unused")
    odd = [p.text for p in pieces if p.kind is Kind.BYTE and p.text not in BYTE_TEXTS]
    if odd:
        raise _broken(where, f"byte piece {printable(odd[0])}")


BYTE_TEXTS = frozenset(f"<0x{number:02X}>" for number in range(256))
"""Texts of the 256 byte pieces."""


def _special(pieces: list[Piece], trainer: Mapping[int, Value]) -> dict[str, str]:
    """The special tokens by name; ids are int32 on the wire, -1 means none."""
    special = {}
    for name, number, usual in (("bos_token", 41, 1), ("eos_token", 42, 2), ("pad_token", 43, -1)):
        at = trainer.get(number, usual)
        if isinstance(at, int) and 0 <= at < len(pieces) and pieces[at].kind is Kind.CONTROL:
            special[name] = pieces[at].text
    return special


def _message(value: Value, where: str) -> bytes:
    if not isinstance(value, bytes):
        raise _broken(where, "a number where a message should be")
    return value


def _whole(value: Value) -> int:
    return value if isinstance(value, int) else -1


def _broken(where: str, why: str) -> DataError:
    return DataError(
        "broken-sentencepiece",
        f"{shown(where)} is no sentencepiece model",
        found=printable(why, 200),
        where=shown(where),
        kept="nothing was written",
    )


def refused(where: str, what: str) -> DataError:
    """The fault of a model that asks for what would change ids and is not understood."""
    return DataError(
        "unsupported-sentencepiece",
        f"{shown(where)}: {what} is not supported",
        expected="a BPE or Unigram model",
        where=shown(where),
        kept="nothing was written",
        next="convert it to a tokenizer.json with the program that made it",
    )
