"""Text to token ids and back, with one rule: only text that a template wrote can become a control token.

A `Tokenizer` is a `tokenizers` JSON with a chat template and the names of its special tokens; it comes from a
VOCABULARIES dataset, a Hugging Face folder or a checkpoint folder. Pieces are encoded in stretches: a control
token in template text is one id; everything between control tokens is encoded as plain text, joined over
neighbouring pieces of the same `trained` flag, so that ids are those of the whole text wherever no content
holds a control token's spelling.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.io.conversations import flat, starts
from schemas import VOCABULARIES
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError, printable
from schemas.settings import canonical
from schemas.storage import open_store, shown

FILES = ("tokenizer.json", "tokenizer_config.json")
_LIMIT = 1 << 28
_SPECIAL = ("bos_token", "eos_token", "pad_token")
_BATCH = 4096


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
        """Tokens of each row."""
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

    @staticmethod
    def of_dataset(dataset: Dataset) -> Tokenizer:
        """The one row of a VOCABULARIES dataset."""
        rows = VOCABULARIES.check(dataset.read().select(list(VOCABULARIES.names)), dataset.url).to_pylist()
        if len(rows) != 1:
            raise DataError("bad-tokenizer", f"{shown(dataset.url)} holds {len(rows)} vocabularies", expected="1")
        return Tokenizer(**rows[0])

    @staticmethod
    def of_folder(url: str) -> Tokenizer:
        """`tokenizer.json`, `tokenizer_config.json` and, where there is one, the chat template file of a
        folder.
        """
        texts = {name: _text(url, name) for name in (*FILES, "special_tokens_map.json", "chat_template.jinja")}
        if texts[FILES[0]] is None:
            raise ConfigError(
                "no-tokenizer",
                f"there is no {FILES[0]} in {shown(url)}",
                kept="nothing was started",
                next="convert the tokenizer to the tokenizers library's JSON first",
            )
        config = _object(texts["special_tokens_map.json"], url) | _object(texts[FILES[1]], url)
        special = {name: _token(config.get(name)) for name in _SPECIAL}
        template = texts["chat_template.jinja"] or _template(config.get("chat_template"))
        name = url.rstrip("/").rsplit("/", 1)[-1]
        return Tokenizer(name, texts[FILES[0]] or "", template, **special)

    @property
    def row(self) -> pa.Table:
        """As a VOCABULARIES table of one row."""
        values = {name: [getattr(self, name)] for name in VOCABULARIES.names}
        return VOCABULARIES.conform(pa.table(values, schema=VOCABULARIES.arrow))

    @property
    def files(self) -> dict[str, bytes]:
        """The files of a folder that `of_folder` and Hugging Face's library read, by name."""
        config = {name: getattr(self, name) for name in (*_SPECIAL, "chat_template") if getattr(self, name) is not None}
        config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        texts = (self.tokenizer_json, json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        return {name: text.encode() for name, text in zip(FILES, texts, strict=True)}

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of what changes ids or texts; the name and the layout of the JSON do not."""
        parts = {
            "tokenizer": self._json,
            "template": self.chat_template,
            "special": [getattr(self, n) for n in _SPECIAL],
        }
        return hashlib.sha256(canonical(parts).encode()).hexdigest()

    @cached_property
    def control(self) -> tuple[str, ...]:
        """Texts of all control tokens, longest first."""
        own = {t["content"] for t in self._json.get("added_tokens", []) if t.get("special")}
        own |= {token for name in _SPECIAL if (token := getattr(self, name))}
        return tuple(sorted(own, key=lambda token: (-len(token), token)))

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """Their ids, without the one for what the vocabulary cannot spell."""
        ids = {token: self._own.token_to_id(token) for token in self.control}
        return frozenset(one for token, one in ids.items() if one is not None and token != self._unknown)

    @cached_property
    def control_pattern(self) -> re.Pattern[str] | None:
        """Matches control tokens in template text, with the white space that a token declares to swallow."""
        flags = {t["content"]: (t.get("lstrip"), t.get("rstrip")) for t in self._json.get("added_tokens", [])}
        parts = []
        for token in self.control:
            left, right = flags.get(token, (False, False))
            parts.append((r"\s*" if left else "") + re.escape(token) + (r"\s*" if right else ""))
        return re.compile("(" + "|".join(parts) + ")") if parts else None

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return int(max(self._own.get_vocab(with_added_tokens=True).values())) + 1

    def id_of(self, token: str | None) -> int | None:
        """The id of a token's text."""
        found: int | None = None if token is None else self._own.token_to_id(token)
        return found

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of plain texts: control tokens' spellings stay text."""
        return self._plain(texts, [True] * len(texts))

    def encode_pieces(self, pieces: pa.Array | pa.ChunkedArray) -> Encoded:
        """Ids of a PIECES column."""
        pieces = flat(pieces)
        stretches = _Stretches(self)
        rows = starts(pieces)
        inner = pieces.flatten()
        names = ("text", "special", "trained")
        # A loop over pieces: stretches end where control tokens stand, which only the text itself can tell.
        stretches.add(rows.tolist(), *(inner.field(name).to_pylist() for name in names))
        return stretches.encoded(len(pieces))

    def decode(self, ids: Sequence[Sequence[int]], control: bool = False) -> list[str]:
        """Texts of id sequences, without control tokens unless asked for."""
        found: list[str] = self._own.decode_batch([list(map(int, row)) for row in ids], skip_special_tokens=not control)
        return found

    @cached_property
    def _unknown(self) -> str | None:
        model = self._json.get("model")
        found = model.get("unk_token") if isinstance(model, dict) else None
        return found if isinstance(found, str) else None

    @cached_property
    def _json(self) -> dict[str, Any]:
        return _object(self.tokenizer_json, self.name)

    @cached_property
    def _own(self) -> Any:
        return _opened(self._json, self.name)

    @cached_property
    def _inner(self) -> Any:
        """The same for text inside a row, where sentencepiece-like tokenizers put no leading blank; usually
        the same.
        """
        data: dict[str, Any] = json.loads(self.tokenizer_json)
        changed = False
        for part in _parts(data.get("pre_tokenizer")):
            if part.get("type") == "Metaspace" and part.get("prepend_scheme") == "first":
                part["prepend_scheme"], changed = "never", True
        return _opened(data, self.name) if changed else self._own

    def _plain(self, texts: Sequence[str], first: Sequence[bool]) -> list[list[int]]:
        """Ids of texts, each at the beginning of its row or inside; never a control token."""
        found: list[list[int]] = [[]] * len(texts)
        for tokenizer, wanted in ((self._own, True), (self._inner, False)):
            places = [at for at, flag in enumerate(first) if bool(flag) is wanted]
            for at in range(0, len(places), _BATCH):
                part = places[at : at + _BATCH]
                encodings = tokenizer.encode_batch_fast([texts[place] for place in part], add_special_tokens=False)
                for place, encoding in zip(part, encodings, strict=True):
                    found[place] = encoding.ids
        for at, ids in enumerate(found):
            if not self.control_ids.isdisjoint(ids):
                found[at] = self._spelt(texts[at], bool(first[at]))
        return found

    def _spelt(self, text: str, first: bool) -> list[int]:
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
            tokenizer = self._own if first and at == 0 else self._inner
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
        self._first: list[bool] = []

    def add(self, rows: list[int], texts: list[str], special: list[bool], trained: list[bool]) -> None:
        """All rows' pieces, flat, with the rows' offsets."""
        for row, (start, end) in enumerate(pairwise(rows)):
            held, flag, first = "", False, True
            for at in range(start, end):
                if trained[at] != flag:
                    first = self._flush(row, held, flag, first)
                    held, flag = "", trained[at]
                if not special[at]:
                    held += texts[at]
                    continue
                for text, token in self._cut(texts[at]):
                    if token < 0:
                        held += text
                        continue
                    self._flush(row, held, flag, first)
                    held, first = "", False
                    self._put(row, flag, token)
            self._flush(row, held, flag, first)

    def encoded(self, rows: int) -> Encoded:
        """Everything encoded."""
        # Samples of one prompt repeat it, and conversations their system turn: each text is encoded once.
        once = {pair: at for at, pair in enumerate(dict.fromkeys(zip(self._text, self._first, strict=True)))}
        known = self._tokenizer._plain(*([list(part) for part in zip(*once, strict=True)] or [[], []]))
        encoded = [known[once[pair]] for pair in zip(self._text, self._first, strict=True)]
        ids = np.array(self._id, np.int64)
        lengths = np.ones(len(ids), np.int64)
        lengths[ids < 0] = [len(one) for one in encoded]
        whole = np.repeat(ids, lengths)
        whole[whole < 0] = [token for one in encoded for token in one]
        trained = np.repeat(np.array(self._trained, bool), lengths)
        count = np.bincount(np.array(self._row, np.int64), weights=lengths, minlength=rows).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(count)])
        return Encoded(whole.astype(np.int32), trained, offsets)

    def _flush(self, row: int, text: str, trained: bool, first: bool) -> bool:
        if not text:
            return first
        self._text.append(text)
        self._first.append(first)
        self._put(row, trained, -1)
        return False

    def _put(self, row: int, trained: bool, token: int) -> None:
        self._row.append(row)
        self._trained.append(trained)
        self._id.append(token)

    def _cut(self, text: str) -> list[tuple[str, int]]:
        """Template text as plain texts (id -1) and control tokens; templates write few texts, so each is cut
        once.
        """
        found = self._known.get(text)
        if found is None:
            parts = self._split.split(text) if self._split else [text]
            found = [(part, self._id_of(part) if at % 2 else -1) for at, part in enumerate(parts) if part]
            self._known[text] = found
        return found

    def _id_of(self, token: str) -> int:
        own = self._tokenizer
        found = own.id_of(token) if own.id_of(token) is not None else own.id_of(token.strip())
        assert found is not None, f"control token {token!r} has no id"
        return found


def _opened(data: dict[str, Any], name: str) -> Any:
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(data))
    except Exception as error:
        raise DataError("bad-tokenizer", f"{printable(name)} is not a tokenizer: {printable(error, 200)}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _parts(node: Any) -> list[dict[str, Any]]:
    if not isinstance(node, dict):
        return []
    return [node, *(part for inner in node.get("pretokenizers", []) for part in _parts(inner))]


def _text(url: str, name: str) -> str | None:
    store, folder = open_store(url)
    try:
        return store.read(store.join(folder, name), _LIMIT).decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise DataError("bad-text", f"{name} in {shown(url)} is not UTF-8") from error


def _object(text: str | None, where: str) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError("broken-json", f"a tokenizer file of {shown(where)} is not JSON") from error
    if not isinstance(data, dict):
        raise DataError("broken-json", f"a tokenizer file of {shown(where)} is not an object")
    return data


def _token(value: Any) -> str | None:
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _template(value: Any) -> str | None:
    """A template text, or the `default` one of a named list."""
    if isinstance(value, list):
        value = next((v.get("template") for v in value if isinstance(v, dict) and v.get("name") == "default"), None)
    return value if isinstance(value, str) else None
