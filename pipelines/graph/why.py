"""Why a stage runs: what is different from the newest result with the same label, or that there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.graph.node import Node, asked_key
from pipelines.graph.nodes import Table
from schemas.errors import QuiverError, printable
from schemas.manifest import Manifest
from schemas.store.commit import read_manifest
from schemas.store.opening import open_store

_ABSENT = object()


def why(node: Node) -> str:
    """One phrase: `first time`, `threshold 0.0 -> 0.5`, `another scored`, `seed 1 -> 2`."""
    before = newest_sibling(node)
    return "first time" if before is None else ", ".join(differences(node, before)) or "gone from its place"


def differences(node: Node, before: Manifest) -> Iterator[str]:
    """What sets `node` apart from an earlier result: operation, settings, seed, then what it is made of."""
    old = before.op
    if old.get("name") != node.work.get("name"):
        yield f"{old.get('name')} -> {node.work.get('name')}"
        return
    if old.get("version") != node.work.get("version"):
        yield f"version {old.get('version')} -> {node.work.get('version')} of {node.work.get('name')}"
    yield from _changed("", old.get("params", {}), node.work.get("params", {}))
    seed = getattr(node, "seed", None)
    if seed is not None and before.seed != seed:
        yield f"seed {before.seed} -> {seed}"
    keys = {parent.task_key for parent in before.parents} | {str(fact) for fact in before.facts.values()}
    for role, parent in node.parents.items():
        known = {parent.task_key}
        if isinstance(node, Table) and role in node.resources:
            known = {asked_key(role, parent, node.op.precision)} | (set() if parent.answer_settings else known)
        if not known & keys and role != "validation":
            yield f"another {parent.name}"


def newest_sibling(node: Node) -> Manifest | None:
    """The manifest of the newest result with the same label and another key."""
    folder, _, stem = node.url.rpartition("/")
    store, place = open_store(folder)
    prefix = stem[: -len(node.task_key[:8])]
    siblings = []
    for name in store.names(place):
        if name.startswith(prefix) and name != stem and len(name) == len(stem):
            try:
                manifest = read_manifest(f"{folder}/{name}")
            except QuiverError:
                continue
            if manifest is not None:
                siblings.append(manifest)
    return max(siblings, key=lambda manifest: str(manifest.runtime_info.get("created", "")), default=None)


def _changed(path: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            yield from _changed(f"{path}.{name}" if path else str(name), old.get(name, _ABSENT), new.get(name, _ABSENT))
    elif old != new and not (
        isinstance(old, int | float) and isinstance(new, int | float) and float(old) == float(new)
    ):
        yield f"{path.rsplit('.', 1)[-1]} {_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    return "nothing" if value is _ABSENT else printable(value, 40)
