"""What was read of the manifests of a workspace, kept in one file of its root: two thousand are looked through in a
fraction of a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from datakit.catalog.made import ColumnText, Made, made_of
from schemas.errors import QuiverError
from schemas.manifest import MANIFEST, MAX_BYTES, Manifest
from schemas.store.ownfiles import replace_file

CACHE = ".catalog-manifests.json"
"""The file, beside the datasets; it may be removed at any time."""

Version = tuple[int, int, int, int]
"""What a file is known by: inode, size, times of change and of writing."""

_FORMAT = 1
_COLUMNS = ("columns", "rejected_columns")
_TUPLES: Mapping[str, Any] = {"row_key": str, "files": tuple, "rejected": tuple, "parents": tuple}
_FIELDS = tuple(one.name for one in fields(Made))


class ManifestCache:
    """What was read of manifests, by their places: as long as a file is the same one (inode, size, times), or else has
    the same bytes, it is not read again. Columns, which many datasets have in common, are kept once.
    """

    def __init__(self, manifests: Mapping[str, Any], columns: Sequence[Any]) -> None:
        self._manifests, self._by_sha256 = manifests, {one["sha256"]: one for one in manifests.values()}
        self._columns = [tuple(ColumnText(*one) for one in shape) for shape in columns]
        self._seen: dict[str, tuple[Version, str, Made]] = {}

    @staticmethod
    def read(top: str) -> ManifestCache:
        """What is kept below `top`; nothing where that cannot be read, or somebody else wrote it."""
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            kept = json.loads(_bytes(f"{top}/{CACHE}"))
            if kept["format"] == _FORMAT:
                return ManifestCache(kept["manifests"], kept["columns"])
        return ManifestCache({}, [])

    def of(self, place: str, path: str, version: Version) -> tuple[str, Made]:
        """SHA-256 and meaning of the manifest at `path`, in the folder `place`; `QuiverError` for one that is torn."""
        kept, sha256, made = self._manifests.get(place), "", None
        if isinstance(kept, dict) and tuple(kept.get("version", ())) == version:
            sha256, made = kept["sha256"], self._understood(kept)
        if made is None:
            data = _bytes(path)
            sha256 = hashlib.sha256(data).hexdigest()
            made = self._understood(self._by_sha256.get(sha256)) or made_of(Manifest.from_bytes(data, path))
        self._seen[place] = version, sha256, made
        return sha256, made

    def write(self, top: str) -> None:
        """Keep what was asked for, if it is something else than before; a folder that cannot be written is no fault."""
        known = {place: tuple(one.get("version", ())) for place, one in self._manifests.items()}
        if known == {place: version for place, (version, _, _) in self._seen.items()}:
            return
        shapes: dict[tuple[ColumnText, ...], int] = {}
        manifests = {}
        for place, (version, sha256, made) in self._seen.items():
            values = {name: getattr(made, name) for name in _FIELDS}
            for name in _COLUMNS:
                values[name] = shapes.setdefault(values[name], len(shapes))
            manifests[place] = values | {"version": version, "sha256": sha256}
        columns = [[astuple(one) for one in shape] for shape in shapes]
        with suppress(QuiverError, OSError):
            text = json.dumps({"format": _FORMAT, "columns": columns, "manifests": manifests})
            replace_file(Path(top, CACHE), text)

    def _understood(self, kept: Any) -> Made | None:
        """What was kept, as it was; None where that is not there, or somebody else wrote it."""
        try:
            values = {name: kept[name] for name in _FIELDS}
            values |= {name: self._columns[values[name]] for name in _COLUMNS}
            return Made(**values | {name: tuple(map(one, values[name])) for name, one in _TUPLES.items()})
        except (KeyError, TypeError, ValueError, IndexError):
            return None


def _bytes(path: str) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{MANIFEST} is no regular file")
        return file.read(MAX_BYTES)
