"""Tokenizers as other programs keep them: which files of a folder say what the tokenizer is, and what they say.

    tokenizer.json                            the `tokenizers` library's, alone or in a Hugging Face folder
    tokenizer.model, *.model, *.model.v3      sentencepiece's
    vocab.json and merges.txt                 GPT-2's
    a model of NeMo                           one of these, among the files of it (`schemas.nemo`)

Settings, special tokens and chat template come from the files beside them (`schemas.tokenizer.SOURCES`). Formats and
classes whose ids would come out wrong are refused by name.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from datakit.tokenizers import convert, spm
from schemas.errors import ConfigError, DataError, printable
from schemas.nemo.model import is_nemo, tokenizer_files
from schemas.store.local import LocalStore
from schemas.store.opening import named_file, no_such_file, open_store
from schemas.store.storage import shown
from schemas.tokenizer import LIMIT, SETTINGS, SOURCES, SPECIAL, TOKENS, Row, parsed, row_of
from schemas.untrusted import parsing

VOCAB, MERGES, ADDED = "vocab.json", "merges.txt", "added_tokens.json"

_MODEL = re.compile(r".*\.model(\.v\d+)?")
_PLAIN = {None, "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"}
_SPM = {f"{name}Tokenizer{end}" for name in ("Llama", "CodeLlama", "Gemma", "T5") for end in ("", "Fast")} | _PLAIN
_GPT2 = {"GPT2Tokenizer", "GPT2TokenizerFast"} | _PLAIN
_GPT2_END = "<|endoftext|>"


def files_at(path: str) -> dict[str, bytes]:
    """The files, by name, that say what the tokenizer at `path` (a folder, or its main file) is; `ConfigError` if there
    is none.
    """
    store, place = open_store(path)
    if isinstance(store, LocalStore) and is_nemo(place):
        if files := tokenizer_files(place):
            return files
        raise _none(
            path,
            "a model of NeMo that brings none",
            f"quiver ImportModel --folder {shlex.quote(shown(place))} --tokenizer FOLDER, and name that checkpoint",
        )
    names = store.names(place)
    if names:
        chosen = [*_main(names, path), *(name for name in (*SOURCES[1:], ADDED) if name in names)]
        return {name: _read(store.join(path.rstrip("/"), name)) for name in chosen}
    name = place.rpartition("/")[2]
    if _MODEL.fullmatch(name):
        file_names = {name: name}
    elif name in (VOCAB, MERGES):
        file_names = {VOCAB: VOCAB, MERGES: MERGES}
    else:
        file_names = {TOKENS: name}
    if not name.endswith(".json") and name != MERGES and not _MODEL.fullmatch(name):
        raise _none(path, name)
    try:
        return {known: _read(f"{path.removesuffix(name)}{file}") for known, file in file_names.items()}
    except FileNotFoundError as error:
        raise no_such_file(path) from error


def _read(url: str) -> bytes:
    store, place = named_file(url)
    return store.read(place, LIMIT)


def digests_of(files: Mapping[str, bytes]) -> tuple[tuple[str, str], ...]:
    """Name and SHA-256 (hex) of each file, sorted."""
    return tuple(sorted((name, hashlib.sha256(data).hexdigest()) for name, data in files.items()))


def row_in(files: Mapping[str, bytes], where: str, legacy: bool | None = None) -> Row:
    """The TOKENIZERS row (but for its name) that `files` of `files_at` describe. `legacy` as in
    `convert.of_sentencepiece`; None: as tokenizer_config.json says, else True.
    """
    with parsing(lambda words: _broken(where, words)):
        return _row_in(files, where, legacy)


def _row_in(files: Mapping[str, bytes], where: str, legacy: bool | None) -> Row:
    model = next((name for name in files if _MODEL.fullmatch(name)), None)
    texts = {name: _text(data, name, where) for name, data in files.items() if name != model}
    config = parsed(texts.get("special_tokens_map.json"), where) | parsed(texts.get(SETTINGS), where)
    if TOKENS in texts:
        return row_of(texts, where)
    usual: Mapping[str, str] = {}
    if model is not None:
        _check_class(config, _SPM, where)
        model_file = spm.read(files[model], where)
        is_legacy = config.get("legacy") is not False if legacy is None else legacy
        texts[TOKENS], usual = convert.of_sentencepiece(model_file, is_legacy, where), model_file.special
    else:
        _check_class(config, _GPT2, where)
        texts[TOKENS] = convert.of_gpt2(texts[VOCAB], texts[MERGES], config, where)
        if _GPT2_END in parsed(texts[VOCAB], where):
            usual = {"bos_token": _GPT2_END, "eos_token": _GPT2_END}
    texts[SETTINGS] = json.dumps(_with_added(config, parsed(texts.get(ADDED), where)))
    row = row_of(texts, where)
    row |= {name: usual.get(name) for name in SPECIAL if row[name] is None and name not in config}
    row["tokenizer_json"] = convert.specialised(str(row["tokenizer_json"]), _named(row, config))
    return row


def _broken(where: str, actual: str) -> DataError:
    return DataError(
        "bad-tokenizer",
        "the files of a tokenizer contradict themselves or are broken",
        found=printable(actual, 200),
        where=shown(where),
        kept="nothing was written",
    )


def _main(names: list[str], path: str) -> list[str]:
    """The files that hold the vocabulary."""
    if TOKENS in names:
        return [TOKENS]
    models = [name for name in names if _MODEL.fullmatch(name)]
    if "tokenizer.model" in models or len(models) == 1:
        return ["tokenizer.model" if "tokenizer.model" in models else models[0]]
    if models:
        message = f"{shown(path)} holds several sentencepiece models"
        raise ConfigError("several-tokenizers", message, found=", ".join(models), next="name one of the files")
    if VOCAB in names and MERGES in names:
        return [VOCAB, MERGES]
    raise _none(path, ", ".join(name for name in names if "token" in name or "vocab" in name))


def _none(path: str, actual: str, next: str = "") -> ConfigError:
    return ConfigError(
        "no-tokenizer",
        f"there is no tokenizer at {shown(path)}",
        expected=f"{TOKENS}, a sentencepiece *.model, or {VOCAB} and {MERGES}",
        found=printable(actual, 200) or "none of them",
        kept="nothing was started",
        next=next,
    )


def _check_class(config: Mapping[str, Any], known: set[str | None], where: str) -> None:
    """`DataError` for a class that numbers or cuts text in a way of its own."""
    kind = config.get("tokenizer_class")
    if not isinstance(kind, str | None) or kind not in known:
        raise DataError(
            "unsupported-tokenizer",
            f"{shown(where)} is a {printable(kind)} without a {TOKENS}",
            expected=f"{TOKENS}, or one of {', '.join(sorted(name for name in known if name))}",
            where=shown(where),
            kept="nothing was written",
            next=f"save it with transformers once, which writes {TOKENS}",
        )


def _with_added(config: dict[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with added_tokens.json among the tokens that they add."""
    special = set(_named({}, config))
    loose = {str(number): {"content": text, "special": text in special} for text, number in added.items()}
    decoder = config.get("added_tokens_decoder")
    return {**config, "added_tokens_decoder": loose | (decoder if isinstance(decoder, dict) else {})}


def _named(row: Mapping[str, str | None], config: Mapping[str, Any]) -> list[str]:
    """The texts of the special tokens."""
    more = [config.get(name) for name in (*SPECIAL, "unk_token")]
    for name in ("additional_special_tokens", "extra_special_tokens"):
        more += list(config[name]) if isinstance(config.get(name), list) else []
    texts = [token.get("content") if isinstance(token, dict) else token for token in more]
    texts += [row.get(name) for name in SPECIAL]
    return [text for text in texts if isinstance(text, str) and text]


def _text(data: bytes, name: str, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError("bad-text", f"{name} of {shown(where)} is not UTF-8", where=shown(where)) from error
