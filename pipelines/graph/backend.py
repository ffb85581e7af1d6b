"""What a way to reach a model declares, and how the graph and the runtime ask for it.

A reference on the command line (`--model quiver-data/demo/policy-3f2a91c0`, `--model my_rewards:score`) becomes a node
of the graph; a node's `kind` says which backend opens it. Operations see the protocols of `datakit.clients` only, the
graph sees what is declared here. Nothing here or in a backend's module imports a network: `Backend.open` does, in the
worker process that asks the model.

    reference -> Backend.recognises -> Backend.node -> steps before the stage -> Backend.open in its workers
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar, get_args

from datakit.clients import Determinism
from datakit.op import Capability, Op
from datakit.template import Rendering
from pipelines.graph.faults import StandIn
from pipelines.graph.named_results import place_of_name, refuse_near
from pipelines.graph.node import GraphBuilder, Node
from pipelines.graph.placement import Placement, checked_settings, deciding, parted, placed
from schemas import Schema
from schemas.errors import ConfigError, printable
from schemas.store.commit import read_manifest
from schemas.store.opening import near_name, only_match

Role = Literal["generator", "scorer", "model", "judge", "image_generator", "image_scorer", "environment"]
"""What an operation asks a model to be, by the name in its `needs`: answers prompts, puts numbers on rows, says what it
thinks of given tokens, reads a rubric, draws prompts, puts numbers on images, carries on conversations.
"""

ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage that makes what a model reads: `op` over the rows, its label ending in `name`."""

    name: str
    op: Op


_WEIGHTS = "checkpoint"
"""The kind of models whose weights lie here."""

_OF_AN_ANSWER: Mapping[str, Capability] = {"response_ids": "token_ids", "logprobs": "logprobs"}
"""Columns of an answer, and what a generator must be able to give that fills them."""


class Backend(ABC):
    """One way to reach a model, without state: everything a model is stands in its node."""

    kind: ClassVar[str]
    """The `kind` of the nodes that it opens."""
    form: ClassVar[str]
    """What a reference looks like, in words, and an example of one."""
    example: ClassVar[str]
    schemes: ClassVar[tuple[str, ...]] = ()
    """What references begin with, before a colon: `("http", "https")`."""
    roles: ClassVar[Mapping[Role, frozenset[Capability]]]
    """What it can be, and what it can give as such."""
    placement: ClassVar[Placement] = Placement()
    """Where it answers, and the defaults of its `settings`; of a class below `Placement`, with settings of its own."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Fields of its placement that may stand behind a reference, as in `./llama,precision=bf16`."""
    preload: ClassVar[tuple[str, ...]] = ()
    """Modules that workers need and that are slow to import: a fork server imports them once for all."""

    def recognises(self, reference: str) -> bool:
        """Whether `reference` is one of this backend's; looks at names and small files only."""
        return reference.partition(":")[0] in self.schemes and ":" in reference

    @abstractmethod
    def node(self, plan: GraphBuilder, reference: str) -> Node:
        """The node of the model that `reference` names, of the model's content and never of its address."""

    @abstractmethod
    def takes(self, node: Node, role: Role, rows: Schema) -> Schema:
        """The columns of `rows` that the model at `node` reads in that role, besides those that the operation reads."""

    def steps(self, op: Op, role: Role, rows: Schema, rendering: Rendering, max_length: int | None) -> Sequence[Step]:
        """The stages that make of `rows` (conversations, answers, pairs) what the model reads for `op`; rows of more
        than `max_length` tokens go. Without any, it reads rows as they are.
        """
        return ()

    def outputs(self, node: Node, role: Role) -> tuple[str, ...]:
        """What the model at `node` calls what it answers in that role, where that is known before it is asked: its
        numbers of rows; of a generator the columns of an answer.
        """
        if role != "generator":
            return node.output_names
        able = self.roles.get(role, frozenset())
        return ("response", *(column for column, needed in _OF_AN_ANSWER.items() if needed in able))

    def settled(self, node: Node) -> Node:
        """`node` with what its settings (`placement_settings`) say of it besides; another kind may open it then."""
        return node

    @abstractmethod
    def open(self, url: str, role: Role, takes: Schema, placement: Placement) -> object:
        """The client (`datakit.clients`) of the model at a node's `url`; called in the process that asks it, which has
        `placement.threads`, or once with `placement.concurrency` requests that the client has under way itself. A
        method `close` of the client is called at the end.
        """

    def identity_now(self, url: str) -> Mapping[str, Any] | None:
        """What the model at a node's `url` is now, as `node` gives it to an `ExternalModel`, for a backend that reads
        that off files: a worker that opened others than those ends there. None where nothing can have changed.
        """
        return None

    def tokenizer(self, url: str) -> object:
        """The tokenizer (`datakit.tokenizers.tokenizer`) of the model at a node's `url`, opened where it is used; for a
        backend whose nodes name one (`ExternalModel.tokenizer`).
        """
        raise ConfigError("no-tokenizer", f"{printable(url, 200)} ({self.form}) has no tokenizer", where=url)

    def determinism(self, node: Node) -> Determinism:
        """Whether the model at `node` answers the same rows the same."""
        return "exact"

    def health(self, node: Node) -> None:
        """Raise `ServiceError` if the model cannot answer; called once, before any stage of a run begins."""
        return

    def reach(self, node: Node, seconds: float) -> None:
        """Raise `ServiceError` if the model does not answer within `seconds`; it is asked to do nothing, and nothing is
        written.
        """
        return

    def notes(self, node: Node) -> Sequence[str]:
        """What a person should read before a run that asks this model, a line each."""
        return ()


_BACKENDS: dict[str, Backend] = {}

_OF_A_KIND = (
    *("roles", "placement", "settings", "preload"),
    *("takes", "outputs", "settled", "steps", "open", "identity_now", "tokenizer", "determinism"),
    *("health", "reach", "notes"),
)
"""What is asked of the opener of a kind: one backend has the word on it."""

_B = TypeVar("_B", bound="type[Backend]")


def register(backend: _B) -> _B:
    """Class decorator: references may be of this backend from now on, and nodes of its kind are opened by it.

    A subclass that keeps its parent's kind adds references only; its parent opens what they name. `ConfigError` where
    the kind or a scheme belongs to another backend. The same class defined anew (a notebook's cell) takes its place.
    """
    name = f"{backend.__module__}.{backend.__qualname__}"
    others = [given for other, given in _BACKENDS.items() if other != name]
    for given in others:
        for scheme in sorted({*backend.schemes} & {*given.schemes}):
            raise _taken(name, f"references that begin with {scheme}:", given, "a scheme of its own")
    opener = next((given for given in _BACKENDS.values() if given.kind == backend.kind), None)
    if opener is not None and opener is not _BACKENDS.get(name):
        base = type(opener)
        changed = [part for part in _OF_A_KIND if getattr(backend, part) is not getattr(base, part)]
        if not issubclass(backend, base):
            raise _taken(name, f"the kind {backend.kind}", opener, "a kind of its own")
        if changed:
            raise _taken(name, f"{', '.join(changed)} of the kind {backend.kind}", opener, "a kind of its own")
    _BACKENDS[name] = backend()
    return backend


def _taken(name: str, what: str, other: Backend, expected: str) -> ConfigError:
    return ConfigError(
        "taken",
        f"the backend {name} claims {what}, which {type(other).__name__} has",
        expected=expected,
        where=name,
        kept="the backends that were there",
    )


def backends() -> Sequence[Backend]:
    """All backends; those whose references begin with a scheme of their own come first."""
    return sorted(_BACKENDS.values(), key=lambda backend: (not backend.schemes, type(backend).__name__))


def backend_of(node: Node) -> Backend:
    """The backend that opens `node`; `ConfigError` for what is no model."""
    for backend in _BACKENDS.values():
        if backend.kind == node.opened_by:
            return backend  # the first of its kind: those after it are its subclasses, which add references
    raise ConfigError("wrong-kind", f"{node.label} is a {node.kind}, not a model", kept="nothing was started")


def model_at(plan: GraphBuilder, reference: str, role: Role | None = None) -> Node:
    """The model that `reference` names, asked as the settings behind it say; `ConfigError` if none is there, or none
    that can be a `role`.
    """
    return plan.attempt(lambda: _model_at(plan, reference, role), lambda: _stand_in(plan, reference, role))


def _stand_in(plan: GraphBuilder, reference: str, role: Role | None = None) -> Node:
    """What stands for a model that is not there, and could be a `role`."""
    able = [backend.kind for backend in backends() if role is None or role in backend.roles]
    kind = _WEIGHTS if _WEIGHTS in able else able[0]
    return StandIn(label=printable(reference, 60), root=plan.root, stands_for=kind)


def _model_at(plan: GraphBuilder, reference: str, role: Role | None) -> Node:
    reference, settings = parted(reference)
    reference = only_match(reference)
    able = [backend for backend in backends() if role is None or role in backend.roles]
    backend = _recognising(reference)
    if backend is None and (named := place_of_name(plan.root, reference, "checkpoint")):
        reference, backend = named, _recognising(named)
    if backend is None:
        if ":" not in reference:
            refuse_near(plan.root, reference)
        raise _no_model(reference, able)
    if backend not in able:
        raise ConfigError(
            "wrong-role",
            f"{printable(reference, 200)} ({backend.form}) can be no {role}",
            expected=_forms(able),
            kept="nothing was started",
        )
    return _with_settings(plan, backend, reference, settings)


def _recognising(reference: str) -> Backend | None:
    """The first backend whose `reference` that is; None for none."""
    return next((backend for backend in backends() if backend.recognises(reference)), None)


def _no_model(reference: str, able: Sequence[Backend]) -> ConfigError:
    """What is said of a reference that no backend recognises: a scheme of none, a place."""
    scheme, colon, rest = reference.partition(":")
    if colon and scheme.isalnum() and not rest.startswith("//") and scheme != "file":
        is_there = os.path.lexists(os.path.expanduser(rest))
        error = ConfigError(
            "not-found",
            f"{printable(reference, 200)} is no model: no backend has references that begin with {scheme}:",
            expected=_forms(able),
            kept="nothing was started",
            wrong=(reference,),
        )
        error.matches = (rest,) if is_there else ()
        return error
    manifest = None if "://" in reference else read_manifest(reference)
    near = near_name(reference) if not manifest and ":" not in reference else ""
    return ConfigError(
        "not-found" if manifest is None else "wrong-kind",
        f"{printable(reference, 200)} is no model",
        expected=_forms(able),
        found=_there(reference) if manifest is None else f"a {manifest.kind}",
        kept="nothing was started",
        wrong=(reference,) if near else (),
        nearest=near,
    )


def _there(reference: str) -> str:
    """What a reference without a manifest leads to."""
    if "://" in reference or not os.path.lexists(os.path.expanduser(reference)):
        return "no such place"
    return "a folder without files of a model" if os.path.isdir(os.path.expanduser(reference)) else "a file"


def _with_settings(plan: GraphBuilder, backend: Backend, reference: str, texts: tuple[str, ...]) -> Node:
    """The model of `backend` that `reference` names, with the settings in `texts`."""
    node = plan.add(backend.node(plan, reference))
    if not texts:
        return node
    settings = checked_settings(reference, backend.form, backend.placement, backend.settings, texts)
    answers = deciding(backend.placement, settings)
    return plan.add(backend.settled(replace(node, placement_settings=settings, answer_settings=answers)))


def placement_of(node: Node) -> Placement:
    """Where and how the model at `node` answers: what its backend says, and the settings behind its reference."""
    return placed(backend_of(node).placement, node.placement_settings)


def checkpoint_at(plan: GraphBuilder, reference: str, *, asked: bool = False) -> Node:
    """The checkpoint that `reference` names, or that is made of what it names; `ConfigError` for any other model, and
    for settings of how it is asked where it is not `asked`.
    """
    return plan.attempt(
        lambda: _checkpoint_at(plan, reference, asked=asked),
        lambda: _stand_in(plan, reference),
    )


def _checkpoint_at(plan: GraphBuilder, reference: str, *, asked: bool) -> Node:
    node = model_at(plan, reference)
    if node.placement_settings and not asked:
        raise ConfigError(
            "bad-setting",
            f"{printable(reference, 200)}: the model is not asked here, only its weights are read",
            expected="a reference without settings",
            found=", ".join(node.placement_settings),
            kept="nothing was started",
            next=f"leave out what stands behind {printable(parted(reference)[0], 200)}",
        )
    if node.opened_by != _WEIGHTS:
        raise ConfigError(
            "wrong-kind",
            f"{printable(reference, 200)} ({backend_of(node).form}) has no weights here to start from",
            expected=_forms([backend for backend in backends() if backend.kind == _WEIGHTS]),
            kept="nothing was started",
        )
    return node


def _forms(able: Sequence[Backend]) -> str:
    return "; ".join(f"{backend.form} ({backend.example})" for backend in able)


def roles_of(op: Op) -> list[Role]:
    """What `op` asks models to be; mostly one, or none."""
    return [role for role in ROLES if role in op.needs]


def gives(node: Node, role: Role, capability: Capability) -> bool:
    """Whether the model at `node` can give `capability` as a `role`."""
    return capability in backend_of(node).roles.get(role, frozenset())


def outputs_of(name: str, node: Node) -> tuple[str, ...]:
    """What `node` calls its answers, as the resource `name` of an operation."""
    return next((backend_of(node).outputs(node, role) for role in ROLES if role == name), node.output_names)


def check_model(label: str, op: Op, role: Role, node: Node) -> None:
    """`ConfigError` if the model at `node` cannot be a `role`, or cannot give what `op` asks of one."""
    backend = backend_of(node)
    lacks = sorted(op.asks - backend.roles[role]) if role in backend.roles and role != "environment" else []
    if role not in backend.roles or lacks:
        able = [other for other in backends() if op.asks <= other.roles.get(role, frozenset()) and role in other.roles]
        raise ConfigError(
            "wrong-role" if role not in backend.roles else "no-capability",
            f"{label}: {backend.form} {'gives no ' + ', '.join(lacks) if lacks else f'can be no {role}'}",
            expected=_forms(able) or f"a backend that gives {', '.join(sorted(op.asks))}",
            found=printable(node.name),
            where=label,
            kept="nothing was started",
        )
