"""A tokenizer as a row, as files and as an identity: the one place that reads a Hugging Face tokenizer folder.

    row = read_folder("models/llama")      tokenizer_json, chat_template, bos_token, eos_token, pad_token
    tokenizer_identity(row["tokenizer_json"], row)   what rows, checkpoints and plans compare

The identity is of what changes ids or texts: the vocabulary, how text is cut into it, the chat template and the special
tokens. Spelling of the JSON, padding, truncation and post-processors (nothing here adds tokens behind a template's
back) are not in it, so the same tokenizer has it as a dataset, in a folder and in a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa

from schemas.dataset import Dataset
from schemas.errors import DataError, IntegrityError, printable
from schemas.manifest import MANIFEST
from schemas.schema import Column, Schema
from schemas.store.opening import named_file, open_store
from schemas.store.storage import normal, shown
from schemas.untrusted import parsing

TOKENIZERS = Schema(
    "vocabularies",
    1,
    (
        Column("name", pa.string(), "what to call it"),
        Column("tokenizer_json", pa.string(), "the tokenizer, in the `tokenizers` library's JSON"),
        Column("chat_template", pa.string(), "Jinja template of a conversation", nullable=True),
        Column("bos_token", pa.string(), "text of the token that opens a text", nullable=True),
        Column("eos_token", pa.string(), "text of the token that ends an answer", nullable=True),
        Column("pad_token", pa.string(), "text of the token that fills", nullable=True),
    ),
    key=("name",),
)

TOKENS, SETTINGS = FILES = ("tokenizer.json", "tokenizer_config.json")
"""The files that a folder of ours holds a tokenizer in."""

SPECIAL = ("bos_token", "eos_token", "pad_token")
"""The special tokens that a row names."""

SOURCES = (
    *FILES,
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "config.json",
)
"""The files of a Hugging Face folder that say what its tokenizer is; only the first must be there."""

LIMIT = 1 << 28
"""Bytes of the largest file that is read."""

_OPTIONS = ("chat_template", *SPECIAL)
_IDLE = ("version", "truncation", "padding", "post_processor")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_FROM_MODEL = {"bos_token": "bos_token_id", "eos_token": "eos_token_id"}

Row = dict[str, str | None]


def tokenizer_identity(tokenizer_json: str, options: Mapping[str, Any]) -> str:
    """SHA-256 in hex of a tokenizer's content: its JSON, chat template and special tokens; `DataError` if broken.

    `options` holds `chat_template`, `bos_token`, `eos_token` and `pad_token`; absent and None are the same. Both
    spellings of merges ("a b" and ["a", "b"]) and settings left at their default are one.
    """
    given = {name: options[name] for name in _OPTIONS if options.get(name) is not None}
    data = {key: value for key, value in parsed(tokenizer_json, TOKENS).items() if key not in _IDLE and value}
    model = data.get("model")
    if isinstance(model, dict):
        data["model"] = {key: value for key, value in model.items() if value not in (None, False, "")}
        merges = model.get("merges")
        if isinstance(merges, list):
            data["model"]["merges"] = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
    return hashlib.sha256(json.dumps([data, given], sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def row_of(texts: Mapping[str, str], where: str = "") -> Row:
    """What a folder's files (by name, see `SOURCES`) say: the values of a TOKENIZERS row but for its name.

    Tokens that only `tokenizer_config.json` adds are added to the JSON under their ids. Where it names no opening or
    end token, the model's own configuration does. `DataError` for files that are broken or contradict each other, and
    for a tokenizer that is code (`auto_map`).
    """
    config = parsed(texts.get("special_tokens_map.json"), where) | parsed(texts.get(SETTINGS), where)
    if "auto_map" in config:
        raise DataError(
            "remote-code",
            f"{SETTINGS} asks for code that came with the folder (auto_map), which is never run",
            where=shown(where),
            kept="nothing was written",
        )
    tokenizer_json = with_added(texts[TOKENS], config.get("added_tokens_decoder"), where)
    row: Row = {"tokenizer_json": tokenizer_json}
    single = parsed(texts.get("chat_template.json"), where).get("chat_template")
    row["chat_template"] = texts.get("chat_template.jinja") or _template(config.get("chat_template") or single)
    row |= {name: _token(config.get(name)) for name in SPECIAL}
    model = parsed(texts.get("config.json"), where) | parsed(texts.get("generation_config.json"), where)
    for name, key in _FROM_MODEL.items():
        number = model.get(key)
        number = number[0] if isinstance(number, list) and number else number
        if row[name] is None and isinstance(number, int):
            row[name] = {id_: text for text, id_ in ids_of(tokenizer_json, where).items()}.get(number)
    return row


def read_folder(url: str | os.PathLike[str]) -> Row | None:
    """`row_of` the files of a folder (Hugging Face's or a checkpoint's); None if it has no `tokenizer.json`.

    Its files may be links, as those of a model hub's cache are, unless a manifest makes it a folder of ours.
    """
    texts, opened = {}, open_store if _is_published(url) else named_file
    for name in SOURCES:
        file = f"{normal(url)}/{name}"
        try:
            store, path = opened(file)
            texts[name] = store.read(path, LIMIT).decode()
        except (FileNotFoundError, NotADirectoryError):
            if name == TOKENS:
                return None
        except UnicodeDecodeError as error:
            raise DataError("bad-text", f"{name} in {shown(url)} is not UTF-8", where=shown(url)) from error
    return row_of(texts, str(url))


def _is_published(url: str | os.PathLike[str]) -> bool:
    """Whether a manifest stands in the folder, itself no link."""
    store, path = open_store(f"{normal(url)}/{MANIFEST}")
    with suppress(IntegrityError):
        return store.size(path) is not None
    return False


def read_dataset(dataset: Dataset) -> Row:
    """The one row of a TOKENIZERS dataset, its name among the values; `DataError` if there are more or none."""
    rows = TOKENIZERS.check(dataset.read().select(list(TOKENIZERS.names)), dataset.url).to_pylist()
    if len(rows) != 1:
        message = f"{shown(dataset.url)} holds {len(rows)} tokenizers"
        raise DataError("vocabulary", message, expected="one", where=shown(dataset.url))
    row: Row = rows[0]
    return row


def files_of(row: Mapping[str, Any]) -> dict[str, str]:
    """The files of a folder that `read_folder` and Hugging Face's library read, by name; the identity is kept."""
    config = {name: row[name] for name in _OPTIONS if row.get(name) is not None}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    text = json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    return {TOKENS: str(row["tokenizer_json"]), SETTINGS: text}


def files_identity(texts: Mapping[str, str]) -> str:
    """The identity of the tokenizer that a folder's files (by name) are."""
    row = row_of(texts)
    return tokenizer_identity(str(row["tokenizer_json"]), row)


def folder_identity(url: str | os.PathLike[str]) -> str:
    """The identity of the tokenizer in a Hugging Face or checkpoint folder; empty without a `tokenizer.json`."""
    row = read_folder(url)
    return "" if row is None else tokenizer_identity(str(row["tokenizer_json"]), row)


def dataset_identity(dataset: Dataset) -> str:
    """The identity of the tokenizer in a TOKENIZERS dataset."""
    row = read_dataset(dataset)
    return tokenizer_identity(str(row["tokenizer_json"]), row)


def ids_of(tokenizer_json: str, where: str = "") -> dict[str, int]:
    """The id of every token by its text; `DataError` if the JSON does not say."""
    data = parsed(tokenizer_json, where)
    model = data.get("model")
    vocab = model.get("vocab", {}) if isinstance(model, dict) else {}
    try:
        if isinstance(vocab, list):
            ids = {str(entry[0]): number for number, entry in enumerate(vocab)}
        else:
            ids = {str(text): int(number) for text, number in vocab.items()}
        return ids | {str(token["content"]): int(token["id"]) for token in data.get("added_tokens") or []}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DataError("bad-tokenizer", "the tokenizer's vocabulary is not well-formed", where=shown(where)) from error


def vocabulary_size(tokenizer_json: str) -> int:
    """One more than the greatest id: the rows that a network for it needs. Ids may have gaps."""
    return max(ids_of(tokenizer_json).values(), default=-1) + 1


def with_added(tokenizer_json: str, decoder: Any, where: str = "") -> str:
    """The JSON with the tokens of `decoder` (an id's text: {content, special, lstrip, ...}) that it lacks.

    The library numbers added tokens itself, one behind another, whatever their ids say. A token whose id it would
    change gets it from the model's vocabulary instead; `DataError` where the model numbers by place and cannot.
    """
    data, known = parsed(tokenizer_json, where), ids_of(tokenizer_json, where)
    added = data["added_tokens"] = list(data.get("added_tokens") or [])
    before = len(added)
    for number, token in sorted(_decoder(decoder, where).items()):
        content = token["content"]
        if content in known and known[content] != number:
            raise _contradiction(content, known[content], number, where)
        if content not in {one["content"] for one in added}:
            added.append({"id": number, "content": content, **{name: bool(token.get(name)) for name in _FLAGS}})
    moved = _anchored(data, where)
    return json.dumps(data, ensure_ascii=False) if moved or len(added) > before else tokenizer_json


def parsed(text: str | None, where: str) -> dict[str, Any]:
    """The object of a JSON text, empty for None; `DataError` if it is something else."""
    if text is None:
        return {}
    with parsing(
        lambda words: DataError("broken-json", "a tokenizer file is not JSON", found=words, where=shown(where))
    ):
        data = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(data, ensure_ascii=False).encode()  # half of a surrogate pair is a text that no file can hold
    if not isinstance(data, dict):
        raise DataError("broken-json", "a tokenizer file is not a JSON object", where=shown(where))
    return data


def _anchored(data: dict[str, Any], where: str) -> bool:
    """Give added tokens that the library would renumber a place in the model's vocabulary; whether there were any."""
    model = data.get("model")
    vocab: Any = model.get("vocab") if isinstance(model, dict) else None
    places = len(vocab) if isinstance(vocab, dict | list) else 0
    known = set(vocab) if isinstance(vocab, dict) else {str(entry[0]) for entry in vocab or ()}
    taken = {number: text for text, number in vocab.items()} if isinstance(vocab, dict) else {}
    for token in data["added_tokens"]:
        if isinstance(vocab, dict) and vocab.get(token["content"], token["id"]) != token["id"]:
            raise _contradiction(token["content"], vocab[token["content"]], token["id"], where)
    data["added_tokens"].sort(key=lambda token: int(token["id"]))
    loose = [token for token in data["added_tokens"] if token["content"] not in known]
    ids = [int(token["id"]) for token in loose]
    following = max((places, *(number + 1 for number in taken)), default=0)
    if ids == list(range(following, following + len(ids))) and following == places:
        return False
    for token in loose:
        if not isinstance(vocab, dict) or taken.get(token["id"], token["content"]) != token["content"]:
            raise _contradiction(token["content"], places, token["id"], where)
        vocab[token["content"]] = taken[token["id"]] = token["id"]
    return bool(loose)


def _contradiction(content: str, one: object, other: object, where: str) -> DataError:
    return DataError(
        "tokenizer-ids",
        f"the tokenizer's files give {printable(content)} two ids, or one that cannot be kept",
        expected=printable(one),
        found=printable(other),
        where=shown(where),
        kept="nothing was written",
    )


def _decoder(decoder: Any, where: str) -> dict[int, dict[str, Any]]:
    try:
        tokens = {int(number): dict(token) for number, token in (decoder or {}).items()}
        if all(isinstance(token["content"], str) for token in tokens.values()):
            return tokens
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError("bad-tokenizer", "added_tokens_decoder is not well-formed", where=shown(where)) from error
    raise DataError("bad-tokenizer", "added_tokens_decoder is not well-formed", where=shown(where))


def _token(value: Any) -> str | None:
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) and content else None


def _template(value: Any) -> str | None:
    """A template text, or the `default` one of a named list."""
    if isinstance(value, list):
        value = next((v.get("template") for v in value if isinstance(v, dict) and v.get("name") == "default"), None)
    return value if isinstance(value, str) and value else None
