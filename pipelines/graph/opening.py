"""How the model at a node is opened by what asks it, and the resource of an operation that does.

A model without a manifest (a function, a folder of somebody else) is read again once it is open: what changed since the
run was planned is refused, so that no answer stands under the key of another model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from datakit.op import NOTHING, Precision
from datakit.run.resource import Resource
from pipelines.graph.backend import Backend, Role, backend_of, placement_of
from pipelines.graph.external import ExternalModel
from pipelines.graph.node import Node, asked_key
from pipelines.graph.placement import Placement
from schemas import Schema
from schemas.canonical import canonical
from schemas.errors import IntegrityError, printable


def opener_of(node: Node, role: Role, takes: Schema, placement: Placement) -> Callable[[], object]:
    """What opens the model at `node`, where it is asked; it raises `IntegrityError` (11) where the files that it opened
    are no longer those that the node names: what they answer would stand under the key of others.
    """
    backend = backend_of(node)
    opened = functools.partial(backend.open, node.url, role, takes, placement)
    if isinstance(node, ExternalModel):
        return functools.partial(_as_named, backend, node.url, node.identity, opened)
    return opened


def planned_as(node: Node, identity: Mapping[str, Any] | None) -> Node:
    """`node`, read off its reference by the process that asks it, as the one that the run was planned with: `opener_of`
    refuses another one. `identity` is None where a manifest says what the model is.
    """
    return replace(node, identity=identity) if isinstance(node, ExternalModel) and identity is not None else node


def identity_of(node: Node) -> Mapping[str, Any] | None:
    """What a model is that no manifest describes, for `planned_as`; None for others."""
    return node.identity if isinstance(node, ExternalModel) else None


def _as_named(backend: Backend, url: str, identity: Mapping[str, Any], opened: Callable[[], object]) -> object:
    made = opened()
    now = backend.identity_now(url)
    if now is not None and now != identity:
        raise IntegrityError(
            "source-changed",
            f"{printable(url, 200)} changed since this run was planned",
            expected=printable(canonical(identity), 200),
            found=printable(canonical(now), 200),
            kept="what was answered before it changed; nothing that it says now",
            next="run the same command again: what it is now gets a key of its own",
        )
    return made


def model_resource(
    role: Role, node: Node, rows: Schema | None, tokenizer: str, precision: Precision = "fp32"
) -> Resource:
    """The resource of an operation over `rows` that asks the model at `node`, which reads ids of `tokenizer` and
    computes in `precision`, unless its reference says otherwise: a setting of the operation, and so of its task's
    identity, not of the resource's.
    """
    backend, placement = backend_of(node), placement_of(node)
    takes = backend.takes(node, role, rows or NOTHING)
    if "precision" not in node.placement_settings:
        placement = replace(placement, precision=precision)
    opened = opener_of(node, role, takes, placement)
    concurrency = 1 if placement.inside else placement.concurrency
    content_key = asked_key(role, node, precision)
    return Resource(content_key, opened, takes, tokenizer, backend.outputs(node, role), concurrency)
