"""Luigi targets over the dataset folder: complete means a manifest with a right checksum of itself, for this very
key.
"""

from __future__ import annotations

import luigi

from pipelines.graph.nodes import Node
from schemas.store.commit import find_existing


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
        return find_existing(self.node.url, self.node.task_key, self.node.kind) is not None
