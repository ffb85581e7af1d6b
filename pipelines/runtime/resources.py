"""What operations reach for, opened in the worker that uses it: tokenizers, policies, reward models, by URL.

Every function here is what a `datakit.run.resource.Resource` calls in its own process, so that nothing heavy is
imported by the process that holds the graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from datakit.op import NOTHING
from datakit.run.resource import Resource
from pipelines.graph.external import Function, reach
from pipelines.graph.nodes import Node, resource_key
from pipelines.graph.tokenizer_check import SCORER_COLUMNS
from schemas import IDS, Column, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.tokenizer import dataset_identity
from schemas.tokenizer_lineage import FACT


def open_tokenizer(url: str, kind: str) -> object:
    """The tokenizer in a TOKENIZERS dataset or in a checkpoint."""
    from datakit.tokenizers.tokenizer import Tokenizer

    return Tokenizer.of_folder(url) if kind == "checkpoint" else Tokenizer.of_dataset(Dataset.open(url))


_THREADS = 1
"""Of a model in a data stage: the number changes the last bits of a product, so it may not follow the worker count."""


def open_generator(url: str) -> object:
    """A policy to sample from."""
    from trainers.engine.inference.generator import open_generator as opened

    return opened(url, threads=_THREADS)


def open_scorer(url: str) -> object:
    """A reward model."""
    from trainers.engine.inference.scorer import open_scorer as opened

    return opened(url, threads=_THREADS)


def open_token_model(url: str) -> object:
    """A network that is asked about given tokens."""
    from trainers.engine.inference.frozen import open_frozen

    return open_frozen(url, threads=_THREADS)


_OPENERS: Mapping[str, Callable[[str], object]] = {
    "generator": open_generator,
    "scorer": open_scorer,
    "model": open_token_model,
}


_SCORED = Schema("scored", 1, tuple(Column(name, IDS, "tokens that are read") for name in SCORER_COLUMNS))


def open_function(function: str, takes: Schema) -> object:
    """A Python function as a scorer; its module may lie in the working folder."""
    from datakit.clients import PythonScorer

    reach(function)
    return PythonScorer(function, takes)


def resource_of(name: str, node: Node, rows: Schema | None) -> Resource:
    """The resource that an operation over `rows` calls `name` and that `node` makes."""
    key = resource_key(name, node)
    if isinstance(node, Function):
        return Resource(key, functools.partial(open_function, node.function, node.takes(rows or NOTHING)))
    speaks = _tokenizer_id(node)
    if name == "tokenizer":
        return Resource(key, functools.partial(open_tokenizer, node.url, node.kind), tokenizer_id=speaks)
    if name not in _OPENERS:
        raise ConfigError("unknown-resource", f"there is no way to open a {name}", expected=", ".join(_OPENERS))
    takes = _SCORED if name == "scorer" else NOTHING
    return Resource(key, functools.partial(_OPENERS[name], node.url), takes, speaks)


def _tokenizer_id(node: Node) -> str:
    """The identity of the tokenizer that lies at `node`, or that the network there speaks."""
    if node.kind == "dataset":
        return dataset_identity(Dataset.open(node.url))
    manifest = node.manifest()
    fact = "" if manifest is None else manifest.facts.get(FACT, "")
    return fact if isinstance(fact, str) else ""
