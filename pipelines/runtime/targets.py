"""Luigi targets over the dataset folder: complete means a manifest with a right checksum of itself, for this very
key.
"""

from __future__ import annotations

import luigi

from pipelines.graph.nodes import Node
from schemas.errors import ConflictError
from schemas.manifest import Manifest


class NodeTarget(luigi.Target):
    """What a node makes. `exists` reads one small file; it never lists a folder and never looks at a clock."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def __str__(self) -> str:
        return self.node.url

    def exists(self) -> bool:
        """Whether the manifest is there and whole; `IntegrityError` if it is torn, `ConflictError` if it is
        another's.
        """
        manifest = self.node.manifest()
        return manifest is not None and self._mine(manifest)

    def _mine(self, manifest: Manifest) -> bool:
        if manifest.kind != self.node.kind or manifest.task_key not in ("", self.node.task_key):
            raise ConflictError(
                "foreign-output",
                f"{self.node.url} holds what another task made",
                expected=f"{self.node.kind} with key {self.node.task_key[:16]}",
                found=f"{manifest.kind} with key {manifest.task_key[:16]}",
                where=self.node.url,
                kept="everything; nothing was overwritten",
                next=f"move {self.node.url} away, or choose another [quiver] root",
            )
        return True
