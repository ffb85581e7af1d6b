"""A Hugging Face folder opened for reading: config.json, safetensors files, and nothing that could run.

Only files with a name in the folder itself are read: an index that points elsewhere is refused, and so are pickled
weights. What the headers say is checked against the index before a single tensor is read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from schemas.errors import ConfigError, DataError, printable
from schemas.store.storage import shown
from schemas.untrusted import parsing, strict_json
from trainers.engine.weights.tensorfile import DTYPES, TensorFile

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
_LIMIT = 64 << 20
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
_CONVERT = "where you trust the folder: from_pretrained(folder).save_pretrained(new) of transformers writes safetensors"
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\.safetensors")


class Folder:
    """The folder at `path`: its `config`, its tensors by name, and where its tokenizer lies."""

    described = CONFIG

    def __init__(self, path: str) -> None:
        self.path = path
        if not os.path.isfile(os.path.join(path, CONFIG)):
            raise ConfigError(
                "not-a-model-folder",
                f"{shown(path)} is not a Hugging Face folder",
                expected=f"a folder with {CONFIG} and *.safetensors",
                kept="nothing was written",
            )
        self.config = self.json(CONFIG)
        self.tokenizer_place = path
        files = {name: TensorFile(os.path.join(path, name)) for name in self._files()}
        self._place: dict[str, TensorFile] = {}
        for name, file in files.items():
            twice = file.entries.keys() & self._place.keys()
            if twice:
                raise self._bad(f"{name} and another file both hold {listed(twice)}")
            self._place |= dict.fromkeys(file.entries, file)
        self._check_index()

    @property
    def tensors(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor of all files, by its name."""
        return {name: file.entries[name].shape for name, file in self._place.items()}

    def dtype(self, name: str) -> str:
        """The type of a tensor, as safetensors calls it."""
        return self._place[name].entries[name].dtype

    def source(self, name: str) -> str:
        """Where one looks for a tensor that is not as it should be: this folder, or a file in another one."""
        return self.path

    def read(self, name: str, row: int | None = None) -> Tensor:
        """A tensor, or one slice of its first dimension."""
        if row is None:
            return self._place[name].read(name)
        return self._place[name].read(name, row, row + 1)[0]

    def numel(self) -> int:
        """Number of elements of all tensors of all files together."""
        total = 0
        for file in set(self._place.values()):
            for entry in file.entries.values():
                total += (entry.end - entry.begin) // (DTYPES[entry.dtype].itemsize if entry.dtype in DTYPES else 1)
        return total

    def text(self, name: str) -> str | None:
        """A text file of the folder; None if there is none."""
        return read_text(self.path, name)

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object of the folder; empty if there is no such file."""
        return read_object(self.path, name)

    def _files(self) -> list[str]:
        there = sorted(os.listdir(self.path))
        if INDEX in there:
            weight_map = self._weight_map()
            odd = [name for name in weight_map.values() if not isinstance(name, str) or not _FILE.fullmatch(name)]
            if odd:
                raise self._bad(f"{INDEX} names files elsewhere: {printable(odd, 200)}")
            names = sorted(set(weight_map.values()))
            if missing := sorted(set(names) - set(there)):
                raise self._bad(f"{INDEX} names files that are not there: {printable(missing, 200)}")
            return names
        if SINGLE in there:
            return [SINGLE]
        pickled = [name for name in there if name.endswith(_PICKLED)]
        raise ConfigError(
            "no-safetensors",
            f"{shown(self.path)} has no {SINGLE} and no {INDEX}",
            expected="weights as safetensors",
            found=f"pickled weights: {printable(pickled, 200)}" if pickled else "no weights",
            where=shown(self.path),
            kept="nothing was written",
            next=_CONVERT if pickled else "give the folder that holds the weights",
        )

    def _weight_map(self) -> dict[str, Any]:
        weight_map = self.json(INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise self._bad(f"{INDEX} has no weight_map")
        return weight_map

    def _check_index(self) -> None:
        if not os.path.isfile(os.path.join(self.path, INDEX)):
            return
        weight_map = self._weight_map()
        there = {name: os.path.basename(file.path) for name, file in self._place.items()}
        wrong = [name for name in weight_map.keys() | there.keys() if weight_map.get(name) != there.get(name)]
        if wrong:
            raise self._bad(f"{INDEX} and the files disagree about {listed(wrong)}")

    def _bad(self, what: str) -> DataError:
        return DataError(
            "bad-model-folder",
            what,
            where=shown(self.path),
            kept="nothing was written",
            next="copy the folder again",
        )


def read_text(folder: str, name: str) -> str | None:
    """A UTF-8 file of a folder; None if there is none, `DataError` if it is none."""
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        return None
    size = os.path.getsize(path)
    try:
        if size > _LIMIT:
            raise ValueError(f"{size} bytes")
        with open(path, encoding="utf-8") as file:
            return file.read()
    except ValueError as error:
        raise _unreadable(path, error) from None


def read_object(folder: str, name: str) -> dict[str, Any]:
    """A JSON object of a folder; empty if there is no such file, `DataError` if it is anything else."""
    text = read_text(folder, name)
    if text is None:
        return {}
    with parsing(lambda words: _unreadable(os.path.join(folder, name), words)):
        value = strict_json(text)
        if not isinstance(value, dict):
            raise TypeError("no object")
        as_text(value).encode()  # half of a surrogate pair is a text that no file can hold
    return value


def as_text(value: Mapping[str, Any]) -> str:
    """An object as a file of such a folder holds it."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _unreadable(path: str, error: Exception | str) -> DataError:
    return DataError(
        "bad-file",
        f"{shown(os.path.basename(path))} cannot be read",
        found=printable(error, 200),
        where=shown(path),
        kept="nothing was written",
    )


def listed(names: Any, limit: int = 40) -> str:
    """Names for a message; those of many layers or experts as one, with their number."""
    kinds: dict[str, list[str]] = {}
    for name in sorted(names):
        kinds.setdefault(re.sub(r"\.\d+(?=\.)", ".*", name), []).append(name)
    texts = [printable(all_[0] if len(all_) == 1 else f"{kind} ({len(all_)})", 160) for kind, all_ in kinds.items()]
    return ", ".join(texts[:limit]) + (f" and {len(texts) - limit} more" if len(texts) > limit else "")
