"""What operations reach for, opened in the worker that uses it: tokenizers, policies, reward models, by URL.

Every function here is what a `datakit.resource.Resource` calls in its own process, so that nothing heavy is imported by
the process that holds the graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from datakit.resource import Resource
from pipelines.plan import Node, resource_key
from schemas.dataset import Dataset
from schemas.errors import ConfigError


def open_tokenizer(url: str, kind: str) -> object:
    """The tokenizer in a VOCABULARIES dataset or in a checkpoint."""
    from datakit.tokenize.tokenizer import Tokenizer

    return Tokenizer.of_folder(url) if kind == "checkpoint" else Tokenizer.of_dataset(Dataset.open(url))


_THREADS = 1
"""Of a model in a data stage: the number changes the last bits of a product, so it may not follow the worker count."""


def open_generator(url: str) -> object:
    """A policy to sample from."""
    from trainers.engine.sample import open_generator as opened

    return opened(url, threads=_THREADS)


def open_scorer(url: str) -> object:
    """A reward model."""
    from trainers.engine.score import open_scorer as opened

    return opened(url, threads=_THREADS)


_OPENERS: Mapping[str, Callable[[str], object]] = {"generator": open_generator, "scorer": open_scorer}


def resource_of(name: str, node: Node) -> Resource:
    """The resource that an operation calls `name` and that `node` makes."""
    key = resource_key(name, node)
    if name == "tokenizer":
        return Resource(key, functools.partial(open_tokenizer, node.url, node.kind))
    if name not in _OPENERS:
        raise ConfigError("unknown-resource", f"there is no way to open a {name}", expected=", ".join(_OPENERS))
    return Resource(key, functools.partial(_OPENERS[name], node.url))
