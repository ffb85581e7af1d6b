"""What operations reach for, opened in the worker that uses it: tokenizers and models, by URL.

Every function here is what a `datakit.run.resource.Resource` calls in its own process, so that nothing heavy is
imported by the process that holds the graph.
"""

from __future__ import annotations

import functools

from datakit.op import Precision
from datakit.run.resource import Resource
from pipelines.graph.backend import ROLES, backend_of
from pipelines.graph.external import EngineModel
from pipelines.graph.node import Node, resource_key
from pipelines.graph.opening import model_resource
from schemas import Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.tokenizer import dataset_identity
from schemas.tokenizer_lineage import FACT


def open_tokenizer(url: str, kind: str) -> object:
    """The tokenizer in a TOKENIZERS dataset or in a checkpoint."""
    from datakit.tokenizers.tokenizer import Tokenizer

    return Tokenizer.of_folder(url) if kind == "checkpoint" else Tokenizer.of_dataset(Dataset.open(url))


def resource_of(name: str, node: Node, rows: Schema | None, precision: Precision = "fp32") -> Resource:
    """The resource that an operation over `rows` calls `name`, made by `node`; a network computes in `precision`."""
    if name == "tokenizer":
        of_rows = functools.partial(open_tokenizer, node.url, node.kind)
        opened = of_rows if node.kind == "dataset" else functools.partial(backend_of(node).tokenizer, node.url)
        return Resource(resource_key(name, node), opened, tokenizer_id=_tokenizer_id(node))
    for role in ROLES:
        if role == name:
            return model_resource(role, node, rows, _tokenizer_id(node), precision)
    raise ConfigError("unknown-resource", f"there is no way to open a {name}", expected=", ".join(ROLES))


def _tokenizer_id(node: Node) -> str:
    """The identity of the tokenizer that lies at `node`, or whose ids the model there reads."""
    if node.kind == "dataset":
        return dataset_identity(Dataset.open(node.url))
    if isinstance(node, EngineModel):
        return _tokenizer_id(node.model)
    if not node.made:
        return node.tokenizer_id
    manifest = node.manifest()
    fact = "" if manifest is None else manifest.facts.get(FACT, "")
    return fact if isinstance(fact, str) else ""
