"""What was read of the manifests of a workspace, kept in one file of its root: two thousand are looked through in a
fraction of a second.

Whoever gave a workspace away may have written that file. So it holds facts alone, no SQL, and is as hostile as a
manifest: types come through `schemas.manifest.schema_from_json`, names of files through `inside`.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from datakit.catalog.made import Made, made_of
from schemas.errors import QuiverError
from schemas.manifest import KINDS, MANIFEST, MAX_BYTES, Manifest, schema_from_json, schema_to_json
from schemas.schema import Schema
from schemas.store.ownfiles import replace_file
from schemas.store.storage import inside
from schemas.untrusted import strict_json

CACHE = ".catalog-manifests.json"
"""The file, beside the datasets; it may be removed at any time."""

Version = tuple[int, int, int, int]
"""What a file is known by: inode, size, times of change and of writing."""

_FORMAT = 3
_SCHEMAS = ("schema", "rejected_schema")
_FIELDS = tuple(one.name for one in fields(Made))


class ManifestCache:
    """What was read of manifests, by their places: as long as a file is the same one (inode, size, times), or else has
    the same bytes, it is not read again. Schemas, which many datasets have in common, are kept once.
    """

    def __init__(self, manifests: Mapping[str, Any], schemas: Sequence[Any]) -> None:
        self._manifests, self._by_sha256 = manifests, {one["sha256"]: one for one in manifests.values()}
        self._schemas: list[Schema | None] = [schema_from_json(one) for one in schemas]
        self._seen: dict[str, tuple[Version, str, Made]] = {}

    @staticmethod
    def read(top: str) -> ManifestCache:
        """What is kept below `top`; nothing where that cannot be read, or somebody else wrote it."""
        with suppress(Exception):  # whatever a hostile file makes of its readers: it is worth nothing then
            kept = strict_json(_bytes(f"{top}/{CACHE}"))
            if kept["format"] == _FORMAT:
                return ManifestCache(kept["manifests"], kept["schemas"])
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
        schemas: dict[Schema | None, int] = {}
        manifests = {}
        for place, (version, sha256, made) in self._seen.items():
            values = {name: getattr(made, name) for name in _FIELDS}
            for name in _SCHEMAS:
                values[name] = schemas.setdefault(values[name], len(schemas))
            manifests[place] = values | {"version": version, "sha256": sha256}
        with suppress(QuiverError, OSError):
            shapes = [schema_to_json(one) for one in schemas]
            text = json.dumps({"format": _FORMAT, "schemas": shapes, "manifests": manifests})
            replace_file(Path(top, CACHE), text)

    def _understood(self, kept: Any) -> Made | None:
        """What was kept, as it was; None where that is not there, or is nothing that a manifest can say."""
        try:
            values: dict[str, Any] = {name: check(kept[name]) for name, check in _CHECKS.items()}
            values |= {name: self._schemas[_count(kept[name])] for name in _SCHEMAS}
            if values["kind"] not in KINDS or (values["kind"] == "dataset" and values["schema"] is None):
                return None
            return Made(**values)
        except (QuiverError, KeyError, TypeError, ValueError, IndexError):
            return None


def _text(value: Any) -> str:
    return _a(str, value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or _a(int, value) < 0:
        raise ValueError("no count")
    return value


def _a(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError("of another type")
    return value


def _files(value: Any) -> tuple[tuple[str, int, int], ...]:
    return tuple((inside(path, CACHE), _count(rows), _count(size)) for path, rows, size in _a(list, value))


def _parents(value: Any) -> tuple[tuple[str, str, str, str], ...]:
    return tuple(
        (_text(one), _text(url), _text(content_digest), _text(key)) for one, url, content_digest, key in _a(list, value)
    )


def _numbers(value: Any) -> dict[str, float]:
    return {name: _a(int | float, number) for name, number in _a(dict, value).items()}


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("kind", "content_digest", "task_key", "op", "created"), _text),
    **dict.fromkeys(("params", "facts"), lambda value: _a(dict, value)),
    **dict.fromkeys(("means", "reasons", "counts"), _numbers),
    **dict.fromkeys(("files", "rejected"), _files),
    "parents": _parents,
    "seed": lambda value: _a(int, value),
    "seconds": lambda value: None if value is None else float(_a(int | float, value)),
}
"""What each field but the schemas has to be, as `Manifest.from_bytes` has it."""


def _bytes(path: str) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{MANIFEST} is no regular file")
        return file.read(MAX_BYTES)
