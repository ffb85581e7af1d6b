"""Models from other programs and for them: Hugging Face folders in and out, and Python functions as reward models.

    Adopted      a checkpoint made of a Hugging Face folder (trainers.adopt)
    Converted    a Hugging Face folder made of a checkpoint (trainers.export); adapters merged (trainers.merge)
    Function     `module:function`, handed columns by name; nothing has to be made

A folder is known by its small files whole and by its weight files' sizes, headers and blocks spread evenly over them:
hundreds of gigabytes are not read to plan a graph. The adopted checkpoint's manifest holds the digest of all weights.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

from pipelines.graph.nodes import Node, settled
from schemas import Schema
from schemas.errors import ConfigError, DataError, printable
from schemas.manifest import task_key_of
from schemas.tokenizer import folder_identity

_WEIGHTS = ".safetensors"
_SMALL_FILE = 64 << 20
_BLOCKS, _BLOCK_BYTES = 64, 4096


@dataclass(frozen=True, eq=False, kw_only=True)
class ImportedModel(Node):
    """The checkpoint that `trainers.adopt` makes of the Hugging Face folder `folder`, with its tokenizer or another."""

    folder: str
    content: str
    tokenizer: Node | None = None

    @settled
    def task_key(self) -> str:
        """The folder's content, and the tokenizer where another was given."""
        return task_key_of(self.work, {name: node.task_key for name, node in self.parents.items()}, {}, 0)

    @property
    def kind(self) -> str:
        """A checkpoint."""
        return "checkpoint"

    @property
    def work(self) -> Mapping[str, Any]:
        """`adopt`, and what is adopted."""
        return {"name": "adopt", "version": 2, "params": {"content": self.content}}

    @property
    def schema(self) -> None:
        """A checkpoint has no rows."""

    @functools.cached_property
    def tokenizer_id(self) -> str:
        """The identity of its tokenizer."""
        return folder_identity(self.folder) if self.tokenizer is None else self.tokenizer.tokenizer_id

    @property
    def parents(self) -> Mapping[str, Node]:
        """The tokenizer, where it is not the folder's own."""
        return {} if self.tokenizer is None else {"tokenizer": self.tokenizer}


@dataclass(frozen=True, eq=False, kw_only=True)
class ConvertedModel(Node):
    """What a conversion makes of a checkpoint: `export` a Hugging Face folder, `merge` an ordinary checkpoint of
    adapters and their base. `settings` are arguments of it.
    """

    model: Node
    does: Literal["export", "merge"]
    settings: tuple[tuple[str, str], ...] = ()

    @settled
    def task_key(self) -> str:
        """The checkpoint and the settings."""
        return task_key_of(self.work, {"checkpoint": self.model.task_key}, {}, 0)

    @property
    def kind(self) -> str:
        """A checkpoint, or a folder of files for other programs."""
        return "checkpoint" if self.does == "merge" else "export"

    @property
    def work(self) -> Mapping[str, Any]:
        """The conversion and its settings."""
        version = {"export": 2, "merge": 1}[self.does]
        return {"name": self.does, "version": version, "params": dict(self.settings)}

    @property
    def schema(self) -> None:
        """Weights have no rows."""

    @property
    def tokenizer_id(self) -> str:
        """The checkpoint's."""
        return self.model.tokenizer_id

    @property
    def parents(self) -> Mapping[str, Node]:
        """The checkpoint."""
        return {"checkpoint": self.model}


@dataclass(frozen=True, eq=False, kw_only=True)
class Function(Node):
    """A Python function as a scorer: called with columns as lists, it returns a number a row."""

    made: ClassVar[bool] = False

    function: str

    @settled
    def task_key(self) -> str:
        """The function's name and its module's text: editing the file makes the scores anew."""
        return task_key_of(self.work, {}, {}, 0)

    @property
    def kind(self) -> str:
        """A function."""
        return "function"

    @functools.cached_property
    def work(self) -> Mapping[str, Any]:
        """`python`, name and text."""
        text = hashlib.sha256(_source(self.function).encode()).hexdigest()
        return {"name": "python", "version": 1, "params": {"function": self.function, "text": text}}

    @property
    def schema(self) -> None:
        """A function has no rows."""

    @property
    def tokenizer_id(self) -> str:
        """It reads text, not ids."""
        return ""

    @property
    def parents(self) -> Mapping[str, Node]:
        """Nothing that would have to be made."""
        return {}

    def takes(self, rows: Schema) -> Schema:
        """The columns of `rows` that it is called with: its parameters without a default, by name."""
        names = _parameters(self.function)
        unknown = [name for name in names if name not in rows]
        if unknown:
            raise ConfigError(
                "unknown-column",
                f"{printable(self.function)} asks for {', '.join(map(printable, unknown))}",
                expected=", ".join(rows.names),
                kept="nothing was started",
                next="name its parameters after columns",
            )
        return rows.selecting(*names)


def content_of(folder: str) -> str:
    """SHA-256 in hex of what makes a Hugging Face folder what it is; `ConfigError` if it is none."""
    root = Path(folder)
    if not (root / "config.json").is_file():
        raise ConfigError(
            "not-found",
            f"{printable(folder, 200)} is not a Hugging Face folder",
            expected="a folder with config.json and *.safetensors",
            kept="nothing was started",
        )
    digests = {}
    for path in sorted(root.iterdir()):
        if path.is_file() and not path.name.startswith((".", "_")) and path.suffix not in (".md", ".txt", ".bin"):
            digests[path.name] = _weights_digest(path) if path.suffix == _WEIGHTS else _small_digest(path)
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _small_digest(path: Path) -> str:
    size = path.stat().st_size
    if size > _SMALL_FILE:
        return f"{size} bytes"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _weights_digest(path: Path) -> str:
    """Size, header and evenly spread blocks of a safetensors file."""
    size = path.stat().st_size
    total = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        if size < 8 or header > min(size - 8, 100 << 20):
            raise DataError("bad-safetensors", f"{printable(str(path), 200)} is no safetensors file", where=str(path))
        total.update(file.read(header))
        for place in range(_BLOCKS):
            file.seek(max(0, (size - _BLOCK_BYTES) * place // (_BLOCKS - 1)))
            total.update(file.read(_BLOCK_BYTES))
    return total.hexdigest()


class _Beside(MetaPathFinder):
    """Finds one module in the working folder, after all that is installed; no other one that lies there."""

    def __init__(self, name: str) -> None:
        self.name, self.folder = name, os.getcwd()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(fullname, [self.folder]) if fullname == self.name and path is None else None


def reach(function: str) -> None:
    """Let the module (or package) that holds `function`, and nothing else, be imported from the working folder."""
    name = function.partition(":")[0].partition(".")[0]
    finders = [each for each in sys.meta_path if isinstance(each, _Beside)]
    if not any((each.name, each.folder) == (name, os.getcwd()) for each in finders):
        sys.meta_path.append(_Beside(name))


def place_of(function: str) -> str:
    """The file that holds `function`, found without running it; `ConfigError` if there is none."""
    reach(function)
    module, colon, _ = function.partition(":")
    try:
        spec = importlib.util.find_spec(module) if colon else None
    except (ImportError, ValueError, AttributeError):
        spec = None
    if spec is None or spec.origin is None or not os.path.isfile(spec.origin):
        raise ConfigError(
            "no-function",
            f"there is no Python module for {printable(function)}",
            expected="module:function, importable from the working folder",
            kept="nothing was started",
        )
    return spec.origin


def _source(function: str) -> str:
    """The text of the module that holds `function`."""
    return Path(place_of(function)).read_text(encoding="utf-8")


def _parameters(function: str) -> list[str]:
    name = function.partition(":")[2]
    tree = ast.parse(_source(function))
    defined = [part for part in tree.body if isinstance(part, ast.FunctionDef) and part.name == name]
    if not defined:
        raise ConfigError(
            "no-function",
            f"{printable(function)}: the module defines no such function",
            expected=f"def {printable(name)}(response): ...",
            kept="nothing was started",
        )
    given = defined[-1].args
    positional = [*given.posonlyargs, *given.args]
    needed = positional[: len(positional) - len(given.defaults)]
    named = [arg for arg, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is None]
    return [arg.arg for arg in (*needed, *named)]
