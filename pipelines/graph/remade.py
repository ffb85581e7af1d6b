"""The command that makes rows anew with another tokenizer, or another setting of the stage that takes one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from datakit.registry import OPS
from datakit.tokenizers.making import MakesTokenizer
from pipelines.graph.external import ConvertedModel, ExternalModel, ImportedModel
from pipelines.graph.node import KEY_CHARACTERS, Node
from pipelines.graph.nodes import Table, TrainedCheckpoint
from pipelines.graph.resolve import stem
from schemas.manifest import Manifest
from schemas.settings import apart_from_defaults
from schemas.store.commit import read_manifest
from schemas.store.storage import normal

_COMMANDS = {"template": "Template", "tokenize": "Tokenize"}
"""The commands that take `--tokenizer`, by the family of their operations."""


def tokenizer_at(node: Node) -> str:
    """The place (an absolute path, an address) where the tokenizer that `node` speaks, a model or a tokenizer, lies
    already.
    """
    if isinstance(node, TrainedCheckpoint) and not node.manifest():
        return tokenizer_at(node.init or node.tokenizer)
    if isinstance(node, ConvertedModel) and not node.manifest():
        return tokenizer_at(node.model)
    if isinstance(node, ImportedModel) and not node.manifest():
        return normal(node.folder) if node.tokenizer is None else tokenizer_at(node.tokenizer)
    if isinstance(node, Table) and isinstance(node.op, MakesTokenizer) and node.op.origin and not node.manifest():
        return normal(node.op.origin)
    return node.url if isinstance(node, ExternalModel) else normal(node.url)


def remade(rows: Node, tokenizer: str, changed: Mapping[str, Any] | None = None, *, another: bool = False) -> str:
    """The command that runs the last stage behind `rows` that took a tokenizer, and has all settings of `changed`, once
    more with its own settings and name, these and that `tokenizer` (a place); empty where there is none, or where what
    it read is gone. Where it is `another` tokenizer, the stage is the one that wrote the text for the first one. What
    followed (tokens, filters, mixtures) is run over its result as before.
    """
    changed, manifest = changed or {}, rows.manifest()
    made = None if manifest is None else _last(_Made(rows.url, manifest), tuple(changed))
    if made is None:
        return ""
    if another:
        made = _first(made)
    name, params, data = str(made.manifest.op["name"]), made.manifest.op["params"], made.manifest.parents[0].url
    family, _, op = name.partition(".")
    command, settings = _COMMANDS[family], apart_from_defaults(OPS[name], params) | dict(changed)
    words = ["--op", op, "--data", normal(data), "--tokenizer", tokenizer]
    words += ["--params", json.dumps(settings)] if settings else []
    label = made.label_below(rows.root)
    words += ["--name", label] if label not in ("", f"{command.lower()}/{stem(data)}") else []
    return f"luigi --module pipelines {command} {shlex.join(words)}"


class _Made(NamedTuple):
    """A dataset: where it lies, and its manifest."""

    url: str
    manifest: Manifest

    def label_below(self, root: str) -> str:
        """What it is called below `root`; empty where it lies elsewhere, or is named in another way."""
        below, key = f"{root.rstrip('/')}/", self.manifest.task_key
        named = self.url.startswith(below) and key and self.url.endswith(f"-{key[:KEY_CHARACTERS]}")
        return self.url[len(below) : -1 - KEY_CHARACTERS] if named else ""

    def parents(self) -> list[_Made | None]:
        """Its parents, None for each that is gone."""
        given = [(parent.url, read_manifest(parent.url)) for parent in self.manifest.parents]
        return [None if manifest is None else _Made(url, manifest) for url, manifest in given]


def _last(made: _Made, settings: Sequence[str]) -> _Made | None:
    """The stage nearest to `made`, itself included, that a command can run again."""
    waiting, known = [made], set[str]()
    while waiting:
        made = waiting.pop(0)
        parents = made.parents()
        if parents and parents[0] is not None and _takes(made.manifest, settings):
            return made
        new = [one for one in parents if one is not None and one.manifest.content_digest not in known]
        known |= {one.manifest.content_digest for one in new}
        waiting += new
    return None


def _first(made: _Made) -> _Made:
    """The stage where what `made` read was first written with a tokenizer."""
    while True:
        parent = made.parents()[0]
        if parent is None or not _takes(parent.manifest, ()) or not any(parent.parents()[:1]):
            return made
        made = parent


def _takes(manifest: Manifest, settings: Sequence[str]) -> bool:
    name, params = str(manifest.op.get("name", "")), manifest.op.get("params")
    kind = OPS.get(name)
    if kind is None or "tokenizer" not in kind.needs or name.partition(".")[0] not in _COMMANDS:
        return False
    return isinstance(params, Mapping) and all(setting in params for setting in settings)
