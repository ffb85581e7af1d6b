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
from pipelines.graph.node import GraphBuilder, Node
from pipelines.graph.resolve import any_at, stem
from schemas.errors import ConfigError, IntegrityError, printable
from schemas.nemo.archive import small_files
from schemas.nemo.model import is_nemo
from schemas.store.commit import read_manifest
from schemas.store.storage import shown
from trainers.adapter_folder import is_adapters, read_adapters
from trainers.config import read_json
from trainers.file_digests import add_blocks, file_digest

CONFIG = "config.json"


@register
class HfFolder(Checkpoint):
    """A folder with config.json and safetensors; what is opened is the checkpoint that is made of it."""

    form: ClassVar[str] = "a Hugging Face folder"
    example: ClassVar[str] = "./llama-3.1-8b"

    def recognises(self, reference: str) -> bool:
        folder = os.path.expanduser(reference)
        if "://" in folder or is_adapters(folder) or not os.path.isfile(os.path.join(folder, CONFIG)):
            return False
        manifest = read_manifest(folder)
        return manifest is None or manifest.kind == "export"

    def node(self, plan: GraphBuilder, reference: str) -> Node:
        return imported_model(plan, reference)


def imported_model(plan: GraphBuilder, folder: str, label: str = "", tokenizer: str = "", base: str = "") -> Node:
    """The checkpoint made of a Hugging Face folder, of a model of NeMo, or of the adapters there on the model in `base`
    or that which they name, with the tokenizer at the place `tokenizer` or its own: that in `tokenizer.json`, or else
    in a SentencePiece model.
    """
    folder = os.path.expanduser(folder)
    adapted = is_adapters(folder)
    if base and not adapted:
        raise ConfigError(
            "no-adapters", f"{printable(folder, 200)} is a whole model, --base is for adapters", where=folder
        )
    below = read_adapters(folder, os.path.expanduser(base)).base if adapted else ""
    model = Path(below or folder) / "tokenizer.model"
    if not tokenizer and model.is_file() and not any(Path(at, "tokenizer.json").is_file() for at in (folder, below)):
        tokenizer = str(model)
    if not tokenizer and is_nemo(folder):
        tokenizer = folder
    if not adapted and not is_nemo(folder):
        _check_config(Path(folder) / CONFIG)
    return plan.add(
        ImportedModel(
            label=label or f"adopted/{stem(folder)}",
            root=plan.root,
            folder=str(Path(folder).absolute()),
            content_digest=content_digest_of(folder, below),
            tokenizer=any_at(plan, tokenizer) if tokenizer else None,
            base=below and str(Path(below).absolute()),
        )
    )


def _check_config(path: Path) -> None:
    """`ConfigError` where what says what the model is holds no JSON object; what it says, the import judges."""
    if path.is_file() and not isinstance(read_json(path), dict):
        raise ConfigError(
            "bad-json",
            f"{printable(str(path), 200)} is no JSON object",
            where=str(path),
            kept="nothing was started",
            next="copy the folder again",
        )


def content_digest_of(folder: str, base: str = "") -> str:
    """SHA-256 in hex of what makes a Hugging Face folder or a model of NeMo what it is, or adapters there and the model
    in `base`; `ConfigError` if it is none.
    """
    root = Path(folder)
    if not base and is_nemo(folder):
        return _nemo_digest(root)
    if not base and not (root / CONFIG).is_file():
        raise ConfigError(
            "not-found",
            f"{printable(folder, 200)} is not a Hugging Face folder",
            expected="a folder with config.json and *.safetensors",
            kept="nothing was started",
        )
    digests = {}
    for path in sorted(root.iterdir()):
        if path.is_file() and not path.name.startswith((".", "_")) and path.suffix not in (".md", ".txt", ".bin"):
            digests[path.name] = file_digest(path)
    if base:
        digests["base"] = content_digest_of(base)
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def check_content(folder: str, base: str, named: str) -> None:
    """`IntegrityError` where the model in `folder` is not the one of the digest `named` any more."""
    now = content_digest_of(folder, base)
    if now != named:
        raise IntegrityError(
            "source-changed",
            f"the model in {shown(folder)} changed since this run was planned",
            expected=named,
            found=now,
            kept="every finished stage; nothing of this model was published",
            next="run the same command again: what it is now gets a key of its own",
        )


def _nemo_digest(root: Path) -> str:
    """The small files of a model of NeMo whole, of each file of weights (the archive itself is one) size and blocks."""
    small = small_files(str(root))
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in small.items()}
    files = [path for path in sorted(root.rglob("*")) if path.is_file()] if root.is_dir() else [root]
    for path in files:
        name = path.relative_to(root).as_posix()
        if name not in small:
            total = hashlib.sha256(str(path.stat().st_size).encode())
            with path.open("rb") as file:
                add_blocks(total, file, path.stat().st_size)
            digests[name] = total.hexdigest()
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
