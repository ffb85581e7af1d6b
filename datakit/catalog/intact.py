"""Whether files of a workspace are, byte for byte, those of their manifests: for who asks for more than their sizes.

A bit that a disk turned changes neither size nor times, so every file is read; in one process once (`schemas.shards`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from datakit.catalog.catalog_file import views_of
from datakit.catalog.dataset_views import named_in
from datakit.catalog.workspace import Entry, Workspace
from schemas.dataset import Dataset
from schemas.errors import QuiverError
from schemas.manifest import MANIFEST
from schemas.shards import verified_bytes


def require_intact(workspace: Workspace, query: str, tables: Collection[str]) -> None:
    """`IntegrityError` where a file that one of the `tables` (lower case; `schema.name`) of `query` shows is not that
    of its manifest.
    """
    views = {**views_of(workspace), **named_in(workspace, query)}
    read = {f"{schema}.{view}".lower(): one.reads for (schema, view), one in views.items()}
    places = {place for table in tables for place in read.get(table, read.get(f"main.{table}", ()))}
    for place in sorted(places):
        for _, fault in _changed(workspace.root, place):
            raise fault


def with_changed_files(workspace: Workspace) -> Workspace:
    """The workspace, in which every dataset with a file that is not that of its manifest is damaged."""
    entries, rollouts = (tuple(map(_checked, own)) for own in (workspace.entries, workspace.rollouts))
    return replace(workspace, entries=entries, rollouts=rollouts)


def _checked(entry: Entry) -> Entry:
    if entry.damage or entry.made.kind != "dataset":
        return entry
    changed = _changed(entry.root, entry.place)
    faults = (f"{file} has {fault.found}, its manifest says {fault.expected}" for file, fault in changed)
    return replace(entry, damage=next(faults, ""))


def _changed(root: str, place: str) -> Iterator[tuple[str, QuiverError]]:
    """Files of the dataset at `place` that are not those of its manifest, and the fault of each."""
    try:
        dataset = Dataset.open(f"{root}/{place}")
    except QuiverError as fault:
        yield MANIFEST, fault
        return
    for file in (*dataset.shards, *dataset.manifest.rejected):
        try:
            verified_bytes(dataset.url, file, "full").close()
        except QuiverError as fault:
            yield file.path, fault
