"""What lies below the root under another label is not made again: its files get a second name.

Two labels with one key are the same result. The files of the first are verified, linked (so they need no more room)
and published in the second place as any other result is; removing one of the two leaves the other whole.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator

from pipelines.graph.node import Node
from pipelines.runtime.targets import standing
from schemas.errors import QuiverError
from schemas.manifest import Manifest
from schemas.store.commit import begin_attempt, discard_attempt, publish_folder, read_manifest, replaced

_RESULT = re.compile(r"-[0-9a-f]{8}(\.\w+)?$")
_LOGS = "logs"


def linked(node: Node) -> str:
    """The place of a whole result with the key of `node`, which now lies at its own place too; empty where there is
    none made of what stands now, or where files can have no second name.
    """
    for place in _same(node):
        try:
            manifest = read_manifest(place)
            if manifest is None or (manifest.kind, manifest.task_key) != (node.kind, node.task_key):
                continue
            if replaced(manifest, standing(node)) or not _whole(place, manifest):
                continue
            _publish(place, manifest, node.url)
        except (QuiverError, OSError):
            continue
        return place
    return ""


def _same(node: Node) -> Iterator[str]:
    """Folders below the root that are called after the key of `node`, its own left out; results are not looked into."""
    if "://" in node.root:
        return
    end = f"-{node.task_key[:8]}"
    for folder, names, _ in os.walk(node.root):
        yield from (place for name in names if name.endswith(end) and (place := f"{folder}/{name}") != node.url)
        names[:] = sorted(name for name in names if not _RESULT.search(name) and name != _LOGS)


def _whole(place: str, manifest: Manifest) -> bool:
    """Whether every file there holds the bytes that were published."""
    for file in (*manifest.files, *manifest.rejected):
        hasher = hashlib.sha256()
        with open(f"{place}/{file.path}", "rb") as opened:
            while block := opened.read(1 << 20):
                hasher.update(block)
        if hasher.hexdigest() != file.sha256:
            return False
    return True


def _publish(place: str, manifest: Manifest, url: str) -> None:
    """Publish the files of `manifest`, which lie at `place`, at `url` too."""
    paths = [file.path for file in (*manifest.files, *manifest.rejected)]
    attempt = begin_attempt(url, sorted({os.path.dirname(path) for path in paths} - {""}))
    try:
        for path in paths:
            os.link(f"{place}/{path}", f"{url}/{attempt}/{path}")
        publish_folder(url, attempt, manifest)
    except OSError:
        discard_attempt(url, attempt)
        raise
