"""What the small files of a model of NeMo say: its settings, as plain values, and its tokenizer.

    model_config.yaml                    of a .nemo archive, packed or unpacked
    context/model.yaml, weights/         of a checkpoint of NeMo 2

Settings are data: a class that they name is never looked for, `${...}` stands for another setting of the same file and
for nothing else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.errors import DataError, printable
from schemas.nemo.archive import is_archive, missing, small_files
from schemas.store.storage import shown
from schemas.tokenizer import SOURCES, TOKENS
from schemas.untrusted import parsing
from schemas.yaml_entries import entries_in

CONFIG, CONFIG_2 = "model_config.yaml", "context/model.yaml"
_THEIRS = "config.json"
_MOST_TEXT = 1 << 20
_INSIDE = "nemo:"
_REFERENCE = re.compile(r"\$\{\.?(?:model\.)?(\w+)\}", re.ASCII)
_EXPECTED = f"a .nemo archive, or a folder with {CONFIG} or with {CONFIG_2}"


@dataclass(frozen=True)
class Settings:
    """The settings of a model, and the file `name` that they stand in."""

    name: str
    values: Mapping[str, Any]

    @property
    def is_second(self) -> bool:
        """Whether NeMo 2 wrote them: the arguments of a model, its `config` among them."""
        return self.name == CONFIG_2


def is_nemo(path: str) -> bool:
    """Whether a `.nemo` archive, an unpacked one or a checkpoint of NeMo 2 lies at `path`; a folder with Hugging Face's
    config.json is one of theirs, whatever else is in it.
    """
    if os.path.isfile(os.path.join(path, _THEIRS)):
        return False
    return is_archive(path) or any(os.path.isfile(os.path.join(path, *name.split("/"))) for name in (CONFIG, CONFIG_2))


def settings_at(path: str) -> Settings:
    """The settings of the model at `path`; `ConfigError` where there are none, `DataError` for what is no setting."""
    return settings_in(small_files(path), path)


def settings_in(files: Mapping[str, bytes], path: str) -> Settings:
    """The same of the small files of a model, by name."""
    name = next((name for name in (CONFIG, CONFIG_2) if name in files), None)
    if name is None:
        raise missing(path, _EXPECTED, ", ".join(sorted(files)[:8]) or "no settings")
    where = f"{path}, {name}"
    with parsing(lambda words: _bad(where, words)):
        if len(files[name]) > _MOST_TEXT:
            raise _bad(where, f"{len(files[name]):,} bytes")
        entries = entries_in(files[name].decode("utf-8"), lambda line, what, _: _bad(f"{where}, line {line}", what))
    values = {key: entry.value for key, entry in entries.items()}
    if name == CONFIG and "_target_" in values:
        raise _bad(where, "_target_, a class to build: nothing is built of settings")
    return Settings(name, {key: _resolved(key, value, values, where) for key, value in values.items()})


def tokenizer_files(path: str) -> dict[str, bytes]:
    """The files of the tokenizer of the model at `path`, by Hugging Face's names; empty where it has none."""
    files = small_files(path)
    settings = settings_in(files, path)
    return _second(files) if settings.is_second else _first(files, settings, path)


def _first(files: Mapping[str, bytes], settings: Settings, path: str) -> dict[str, bytes]:
    """Those that `tokenizer` of model_config.yaml names as members."""
    given = settings.values.get("tokenizer")
    given = given if isinstance(given, dict) else {}
    member = {key: _member(given.get(key), files, path) for key in ("model", "vocab_file", "merge_file", "type")}
    if model := member["model"]:
        return {TOKENS if model.endswith(".json") else "tokenizer.model": files[model]}
    if member["vocab_file"] and member["merge_file"]:
        return {"vocab.json": files[member["vocab_file"]], "merges.txt": files[member["merge_file"]]}
    named = member["vocab_file"] or member["type"]
    return {TOKENS: files[named]} if named and given.get("library") == "huggingface" else {}


def _member(value: object, files: Mapping[str, bytes], path: str) -> str:
    """The member that `nemo:NAME` names; empty for any other value."""
    if not isinstance(value, str) or not value.startswith(_INSIDE):
        return ""
    name = value.removeprefix(_INSIDE).removeprefix("./")
    if name not in files:
        raise _bad(path, f"tokenizer names {printable(name, 120)}, which is no file of it")
    return name


def _second(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Those of the folder below `context` that holds a tokenizer."""
    below = sorted(name for name in files if name.startswith("context/"))
    if main := next((name for name in below if name.endswith("/" + TOKENS)), None):
        folder = main.removesuffix(TOKENS)
        return {name: files[folder + name] for name in SOURCES if folder + name in files}
    models = [name for name in below if name.endswith(".model")]
    return {"tokenizer.model": files[models[0]]} if len(models) == 1 else {}


def _resolved(key: str, value: Any, values: Mapping[str, Any], where: str) -> Any:
    """The value, or that of the setting which it stands for."""
    if not isinstance(value, str) or "${" not in value:
        return value
    named = _REFERENCE.fullmatch(value)
    other = values.get(named[1]) if named else None
    if named is None or other is None or (isinstance(other, str) and "${" in other):
        raise _bad(where, f"{printable(key, 60)}: {printable(value, 120)} stands for no setting of the file")
    return other


def _bad(where: str, what: str) -> DataError:
    return DataError(
        "bad-settings",
        f"the settings of a model cannot be read: {shown(where)}",
        expected="YAML of plain values, each key once",
        found=printable(what, 200),
        where=where,
        kept="nothing was written",
    )
