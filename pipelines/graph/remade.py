"""The command that makes rows anew with another tokenizer, or another setting of the stage that takes one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from datakit.registry import OPS
from datakit.tokenize import Adopt
from pipelines.graph.external import ConvertedModel, ImportedModel
from pipelines.graph.nodes import Node, Table, TrainedCheckpoint
from pipelines.graph.resolve import near
from schemas.manifest import Manifest
from schemas.store.commit import read_manifest

_COMMANDS = {"template": "Template", "tokenize": "Tokenize"}
"""The commands that take `--tokenizer`, by the family of their operations."""


def tokenizer_at(node: Node) -> str:
    """Where the tokenizer that `node` speaks, a model or a tokenizer, lies already."""
    if isinstance(node, TrainedCheckpoint) and not node.manifest():
        return tokenizer_at(node.init or node.tokenizer)
    if isinstance(node, ConvertedModel) and not node.manifest():
        return tokenizer_at(node.model)
    if isinstance(node, ImportedModel) and not node.manifest():
        return near(node.folder) if node.tokenizer is None else tokenizer_at(node.tokenizer)
    if isinstance(node, Table) and isinstance(node.op, Adopt) and not node.manifest():
        return near(node.op.path)
    return near(node.url)


def remade(
    manifest: Manifest | None, tokenizer: str, changed: Mapping[str, Any] | None = None, *, another: bool = False
) -> str:
    """The command that runs the last stage behind rows that took a tokenizer, and has all settings of `changed`, once
    more with its own settings, these and that `tokenizer` (a place); empty where there is none, or where what it read
    is gone. Where it is `another` tokenizer, the stage is the one that wrote the text for the first one. What followed
    (tokens, filters, mixtures) is run over its result as before.
    """
    changed = changed or {}
    made = None if manifest is None else _last(manifest, tuple(changed))
    if made is None:
        return ""
    if another:
        made = _first(made)
    name, params = str(made.op["name"]), made.op["params"]
    usual = OPS[name].of({}).params()
    settings = {key: value for key, value in params.items() if usual.get(key) != value} | dict(changed)
    family, _, op = name.partition(".")
    words = ["--op", op, "--data", near(made.parents[0].url), "--tokenizer", tokenizer]
    words += ["--params", json.dumps(settings)] if settings else []
    return f"luigi --module pipelines {_COMMANDS[family]} {shlex.join(words)}"


def _last(manifest: Manifest, settings: Sequence[str]) -> Manifest | None:
    """The stage nearest to `manifest`, itself included, that a command can run again."""
    waiting, known = [manifest], set[str]()
    while waiting:
        made = waiting.pop(0)
        parents = [read_manifest(parent.url) for parent in made.parents]
        if parents and parents[0] is not None and _takes(made, settings):
            return made
        new = [one for one in parents if one is not None and one.content_digest not in known]
        known |= {one.content_digest for one in new}
        waiting += new
    return None


def _first(made: Manifest) -> Manifest:
    """The stage where what `made` read was first written with a tokenizer."""
    while True:
        parent = read_manifest(made.parents[0].url)
        if parent is None or not (_takes(parent, ()) and parent.parents and read_manifest(parent.parents[0].url)):
            return made
        made = parent


def _takes(manifest: Manifest, settings: Sequence[str]) -> bool:
    name, params = str(manifest.op.get("name", "")), manifest.op.get("params")
    kind = OPS.get(name)
    if kind is None or "tokenizer" not in kind.needs or name.partition(".")[0] not in _COMMANDS:
        return False
    return isinstance(params, Mapping) and all(setting in params for setting in settings)
