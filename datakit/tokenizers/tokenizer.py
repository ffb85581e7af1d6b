"""Text to token ids and back, with one rule: only text that a template wrote can become a control token.

A `Tokenizer` is a `tokenizers` JSON with a chat template and the names of its special tokens; it comes from a
TOKENIZERS dataset, a Hugging Face folder or a checkpoint folder. Pieces are encoded in stretches: a control
token in template text is one id; everything between control tokens is encoded as plain text, joined over
neighbouring pieces of the same `trained` flag, so that ids are those of the whole text wherever no content
holds a control token's spelling. White space that a token swallows is taken out before, whichever piece it stands in
(`datakit.tokenizers.stripping`). Where a stretch stands decides whether a sentencepiece-like tokenizer puts its blank
before it: at the beginning of a row, behind a control token, or inside plain text, where it never does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.columns.conversations import flat, starts
from datakit.tokenizers.prefix import unprefixed
from datakit.tokenizers.stripping import Stripping
from schemas import TOKENIZERS
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError, QuiverError, printable
from schemas.store.storage import shown
from schemas.tokenizer import SPECIAL, TOKENS, files_of, parsed, read_dataset, read_folder, tokenizer_identity

_BATCH = 4096
_START, _BEHIND, _INSIDE = range(3)


@dataclass(frozen=True)
class Encoded:
    """Flat ids (int32) of all rows, whether each is trained (bool), and each row's offset (the end
    included).
    """

    ids: np.ndarray
    trained: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each row, int64."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary in use. Encoding never adds tokens of its own: what a text opens and ends with, its
    template says.
    """

    name: str
    tokenizer_json: str
    chat_template: str | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None

    def __post_init__(self) -> None:
        if not self._own.get_vocab_size():
            raise DataError("bad-tokenizer", f"{printable(self.name)} has no tokens")
        missing = [name for name in self.control if self._own.token_to_id(name) is None]
        if missing:
            raise DataError("bad-tokenizer", f"{self.name}: special tokens {printable(missing)} have no id")
        for token in self._added:
            if self._own.token_to_id(token["content"]) != token["id"]:
                raise DataError(
                    "tokenizer-ids",
                    f"{printable(self.name)}: the added token {printable(token['content'])} does not keep its id",
                    expected=str(token["id"]),
                    found=str(self._own.token_to_id(token["content"])),
                    next="adopt the tokenizer with tokenize.adopt, which gives such tokens their place",
                )

    @staticmethod
    def of_dataset(dataset: Dataset) -> Tokenizer:
        """The one row of a TOKENIZERS dataset."""
        return Tokenizer(**read_dataset(dataset))  # type: ignore[arg-type]

    @staticmethod
    def of_folder(url: str) -> Tokenizer:
        """What a Hugging Face folder or a checkpoint has: its `tokenizer.json`, settings and chat template."""
        row = read_folder(url)
        if row is None:
            raise ConfigError(
                "no-tokenizer",
                f"there is no {TOKENS} in {shown(url)}",
                kept="nothing was started",
                next="make a tokenizer dataset of its other files with tokenize.adopt",
            )
        return Tokenizer(url.rstrip("/").rsplit("/", 1)[-1], **row)  # type: ignore[arg-type]

    @property
    def row(self) -> pa.Table:
        """As a TOKENIZERS table of one row."""
        values = {name: [getattr(self, name)] for name in TOKENIZERS.names}
        return TOKENIZERS.conform(pa.table(values, schema=TOKENIZERS.arrow))

    @property
    def files(self) -> dict[str, bytes]:
        """The files of a folder that `of_folder` and Hugging Face's library read, by name."""
        texts = files_of({name: getattr(self, name) for name in TOKENIZERS.names})
        return {name: text.encode() for name, text in texts.items()}

    @cached_property
    def identity(self) -> str:
        """`schemas.tokenizer.tokenizer_identity`: SHA-256 (hex) of what changes ids or texts."""
        options = {name: getattr(self, name) for name in ("chat_template", *SPECIAL)}
        return tokenizer_identity(self.tokenizer_json, options)

    @cached_property
    def control(self) -> tuple[str, ...]:
        """Texts of all control tokens, longest first."""
        own = {t["content"] for t in self._added if t.get("special")}
        own |= {token for name in SPECIAL if (token := getattr(self, name))}
        return tuple(sorted(own, key=lambda token: (-len(token), token)))

    @cached_property
    def added(self) -> tuple[str, ...]:
        """Texts of all control tokens and of the other tokens that are one id wherever they stand."""
        return tuple(dict.fromkeys((*self.control, *(token["content"] for token in self._added))))

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """Their ids, without the one for what the vocabulary cannot spell."""
        ids = {token: self._own.token_to_id(token) for token in self.control}
        return frozenset(one for token, one in ids.items() if one is not None and token != self._unknown)

    @cached_property
    def control_pattern(self) -> re.Pattern[str] | None:
        """Matches control tokens in template text."""
        return re.compile("(" + "|".join(map(re.escape, self.control)) + ")") if self.control else None

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return int(max(self._own.get_vocab(with_added_tokens=True).values())) + 1

    def id_of(self, token: str | None) -> int | None:
        """The id of a token's text."""
        number: int | None = None if token is None else self._own.token_to_id(token)
        return number

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of plain texts: control tokens' spellings stay text."""
        return self._plain(texts, [_START] * len(texts))

    def encode_pieces(self, pieces: pa.Array | pa.ChunkedArray) -> Encoded:
        """Ids of a PIECES column."""
        pieces = flat(pieces)
        stretches = _Stretches(self)
        inner = pieces.flatten()
        text, special, trained = (inner.field(name).to_pylist() for name in ("text", "special", "trained"))
        given = starts(pieces).tolist(), text, special, trained
        # A loop over pieces: stretches end where control tokens stand, which only the text itself can tell.
        stretches.add(*(self._stripping.stripped(*given) if self._stripping else given))
        return stretches.encoded(len(pieces))

    def decode(self, ids: Sequence[Sequence[int]], control: bool = False) -> list[str]:
        """Texts of id sequences, without control tokens unless asked for."""
        texts: list[str] = self._own.decode_batch([list(map(int, row)) for row in ids], skip_special_tokens=not control)
        return texts

    def added_texts(self, ids: Sequence[int]) -> list[str]:
        """What each token adds to the text of those before it: nothing for a control token, and for one that leaves a
        letter unfinished, whose text comes with the token that ends it.
        """
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=False)
        return ["" if one in self.control_ids else stream.step(self._own, int(one)) or "" for one in ids]

    @cached_property
    def _unknown(self) -> str | None:
        model = self._json.get("model")
        unknown = model.get("unk_token") if isinstance(model, dict) else None
        return unknown if isinstance(unknown, str) else None

    @cached_property
    def _json(self) -> dict[str, Any]:
        return parsed(self.tokenizer_json, self.name)

    @property
    def _added(self) -> list[dict[str, Any]]:
        added: list[dict[str, Any]] = self._json.get("added_tokens") or []
        return added

    @cached_property
    def _stripping(self) -> Stripping:
        return Stripping(self._added, self.control, self.control_pattern)

    @cached_property
    def _own(self) -> Any:
        return _opened(self._json, self.name)

    @cached_property
    def _placed(self) -> tuple[Any, Any, Any]:
        """The tokenizer for text at the beginning of a row, behind a control token, and inside plain text."""
        behind, inside = (unprefixed(self._json, everywhere) for everywhere in (False, True))
        made = self._own if behind is None else _opened(behind, self.name)
        return self._own, made, made if inside == behind else _opened(inside or self._json, self.name)

    def _plain(self, texts: Sequence[str], places: Sequence[int]) -> list[list[int]]:
        """Ids of texts, each at its place in a row; never a control token."""
        ids_of_rows: list[list[int]] = [[]] * len(texts)
        for place in sorted(set(places)):
            rows = [row for row, given in enumerate(places) if given == place]
            for at in range(0, len(rows), _BATCH):
                part = rows[at : at + _BATCH]
                given = [texts[row] for row in part]
                with _panics(self.name):
                    encodings = self._placed[place].encode_batch_fast(given, add_special_tokens=False)
                for row, encoding in zip(part, encodings, strict=True):
                    ids_of_rows[row] = encoding.ids
        for row, ids in enumerate(ids_of_rows):
            if not self.control_ids.isdisjoint(ids):
                ids_of_rows[row] = self._spelt(texts[row], places[row])
        return ids_of_rows

    def _spelt(self, text: str, place: int) -> list[int]:
        """Ids of a text whose spelling the model itself takes for a control token: cut inside it, or left
        out.
        """
        parts = [text]
        for token in self.control:
            if len(token) > 1:
                cut = re.compile(f"(?<={re.escape(token[:1])})(?={re.escape(token[1:])})")
                parts = [piece for part in parts for piece in cut.split(part)]
        ids: list[int] = []
        for at, part in enumerate(parts):
            tokenizer = self._placed[place if at == 0 else _INSIDE]
            ids += tokenizer.encode(part, add_special_tokens=False).ids
        return [one for one in ids if one not in self.control_ids]


class _Stretches:
    """Collects stretches of rows (control ids, and plain texts to encode all at once), then lays their ids
    end to end.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._split = tokenizer.control_pattern
        self._known: dict[str, list[tuple[str, int]]] = {}
        self._row: list[int] = []
        self._trained: list[bool] = []
        self._id: list[int] = []
        self._text: list[str] = []
        self._place: list[int] = []

    def add(self, rows: list[int], texts: list[str], special: list[bool], trained: list[bool]) -> None:
        """All rows' pieces, flat, with the rows' offsets."""
        for row, (start, end) in enumerate(pairwise(rows)):
            pending, flag, place = "", False, _START
            for at in range(start, end):
                if trained[at] != flag:
                    place = self._flush(row, pending, flag, place)
                    pending, flag = "", trained[at]
                if not special[at]:
                    pending += texts[at]
                    continue
                for text, token in self._cut(texts[at]):
                    if token < 0:
                        pending += text
                        continue
                    self._flush(row, pending, flag, place)
                    pending, place = "", _BEHIND
                    self._put(row, flag, token)
            self._flush(row, pending, flag, place)

    def encoded(self, rows: int) -> Encoded:
        """The ids of all rows, in the order of the pieces."""
        # Samples of one prompt repeat it, and conversations their system turn: each text is encoded once.
        once = {pair: at for at, pair in enumerate(dict.fromkeys(zip(self._text, self._place, strict=True)))}
        known = self._tokenizer._plain(*([list(part) for part in zip(*once, strict=True)] or [[], []]))
        encoded = [known[once[pair]] for pair in zip(self._text, self._place, strict=True)]
        ids = np.array(self._id, np.int64)
        lengths = np.ones(len(ids), np.int64)
        lengths[ids < 0] = [len(one) for one in encoded]
        whole = np.repeat(ids, lengths)
        whole[whole < 0] = [token for one in encoded for token in one]
        trained = np.repeat(np.array(self._trained, bool), lengths)
        count = np.bincount(np.array(self._row, np.int64), weights=lengths, minlength=rows).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(count)])
        return Encoded(whole.astype(np.int32), trained, offsets)

    def _flush(self, row: int, text: str, trained: bool, place: int) -> int:
        if not text:
            return place
        self._text.append(text)
        self._place.append(place)
        self._put(row, trained, -1)
        return _INSIDE

    def _put(self, row: int, trained: bool, token: int) -> None:
        self._row.append(row)
        self._trained.append(trained)
        self._id.append(token)

    def _cut(self, text: str) -> list[tuple[str, int]]:
        """Template text as plain texts (id -1) and control tokens; templates write few texts, so each is cut
        once.
        """
        stretches = self._known.get(text)
        if stretches is None:
            parts = self._split.split(text) if self._split else [text]
            stretches = [(part, self._id_of(part) if at % 2 else -1) for at, part in enumerate(parts) if part]
            self._known[text] = stretches
        return stretches

    def _id_of(self, token: str) -> int:
        number = self._tokenizer.id_of(token)
        assert number is not None, f"control token {token!r} has no id"
        return number


@contextmanager
def _panics(name: str) -> Iterator[None]:
    """A `DataError` where the library panics (which is no `Exception`), as a tokenizer from outside may make it do."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        message = f"the library cannot work with {printable(name)}: {printable(error, 200)}"
        raise DataError("bad-tokenizer", message, kept="nothing of this output") from error


def _opened(data: dict[str, Any], name: str) -> Any:
    import tokenizers

    try:
        with _panics(name):
            tokenizer = tokenizers.Tokenizer.from_str(json.dumps(data))
    except QuiverError:
        raise
    except Exception as error:
        raise DataError("bad-tokenizer", f"{printable(name)} is not a tokenizer: {printable(error, 200)}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer
