"""Hugging Face folders given directly: the graph imports one as a checkpoint, and asks that.

A folder is known by its small files whole and by its weight files' sizes, headers and blocks spread evenly over them:
hundreds of gigabytes are not read to plan a graph. The imported checkpoint's manifest holds the digest of all weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import ClassVar

from pipelines.backends.checkpoint import Checkpoint
from pipelines.graph.backend import register
from pipelines.graph.external import ImportedModel
from pipelines.graph.nodes import GraphBuilder, Node
from pipelines.graph.resolve import any_at, stem
from schemas.errors import ConfigError, DataError, printable
from schemas.store.commit import read_manifest

_WEIGHTS = ".safetensors"
_SMALL_FILE = 64 << 20
_BLOCKS, _BLOCK_BYTES = 64, 4096


@register
class HfFolder(Checkpoint):
    """A folder with config.json and safetensors; what is opened is the checkpoint that is made of it."""

    form: ClassVar[str] = "a Hugging Face folder"
    example: ClassVar[str] = "./llama-3.1-8b"

    def recognises(self, reference: str) -> bool:
        folder = os.path.expanduser(reference)
        if "://" in folder or not (Path(folder) / "config.json").is_file():
            return False
        manifest = read_manifest(folder)
        return manifest is None or manifest.kind == "export"

    def node(self, plan: GraphBuilder, reference: str) -> Node:
        return imported_model(plan, reference)


def imported_model(plan: GraphBuilder, folder: str, label: str = "", tokenizer: str = "") -> Node:
    """The checkpoint made of a Hugging Face folder, with the tokenizer at the place `tokenizer` or its own: that in
    `tokenizer.json`, or else in a SentencePiece model.
    """
    folder = os.path.expanduser(folder)
    model = Path(folder) / "tokenizer.model"
    if not tokenizer and model.is_file() and not model.with_suffix(".json").is_file():
        tokenizer = str(model)
    return plan.add(
        ImportedModel(
            label=label or f"adopted/{stem(folder)}",
            root=plan.root,
            folder=str(Path(folder).absolute()),
            content_digest=content_digest_of(folder),
            tokenizer=any_at(plan, tokenizer) if tokenizer else None,
        )
    )


def content_digest_of(folder: str) -> str:
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
