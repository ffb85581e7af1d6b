"""Luigi targets over the dataset folder: complete means a manifest with a right checksum of itself, for this very
key, and made of what stands now wherever that has not gone.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress

import luigi

from pipelines.graph.node import Node
from pipelines.graph.nodes import Existing, Table
from schemas.errors import ConflictError, QuiverError
from schemas.manifest import Manifest, Parent
from schemas.run_layout import RECORDS_END, SAVES, run_folder_of
from schemas.store.commit import existing, read_manifest
from schemas.store.storage import relative

ReadManifest = Callable[[str], Manifest | None]
"""`read_manifest`, or one that remembers what it has read while a graph is looked through."""


class NodeTarget(luigi.Target):
    """What a node makes. `exists` reads its manifest and those of its parents; it never lists a folder and never looks
    at a clock.
    """

    def __init__(self, node: Node, read: ReadManifest = read_manifest) -> None:
        self.node, self.read = node, read

    def __str__(self) -> str:
        return self.node.url

    def exists(self) -> bool:
        """Whether the manifest is there and whole; `IntegrityError` if it is torn, `ConflictError` if it is another's
        or if one of the parents is there with other content than it was made of.
        """
        node = self.node
        manifest = self.read(node.url)
        try:
            return existing(manifest, node.url, node.task_key, node.kind, standing(node, self.read)) is not None
        except ConflictError as error:
            if error.slug == "input-replaced" and node.kind == "checkpoint":
                error.next = f"rm -r {shlex.join(map(relative, _of_training(node.url)))}"
            raise


def standing(node: Node, read: ReadManifest = read_manifest) -> Iterator[Parent]:
    """What `node` is made of as it stands now, by the names in its manifest; without what is gone or cannot be read."""
    parents = {str(number): one for number, one in enumerate(node.inputs)} if isinstance(node, Table) else node.parents
    for name, parent in parents.items():
        if isinstance(parent, Existing):
            yield Parent(name, parent.url, parent.existing_manifest.content_digest, parent.existing_manifest.task_key)
        elif parent.made:
            with suppress(QuiverError):
                if manifest := read(parent.url):
                    yield Parent(name, parent.url, manifest.content_digest, manifest.task_key)


def _of_training(url: str) -> list[str]:
    """The folders of a training that another one in the same place would go on from: checkpoint, records, saves."""
    return [url, *filter(os.path.isdir, (f"{url}{RECORDS_END}", f"{run_folder_of(url)}/{SAVES}"))]
