"""What the manifests below a root say, in a form that is small enough to be kept: no shard is opened.

A manifest is read and checked once. What was made of it stays in a file of the root under the SHA-256 of its bytes, so
that two thousand of them are looked through in a fraction of a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from datakit.catalog.sql_text import kind
from schemas.errors import ConfigError, QuiverError
from schemas.manifest import MANIFEST, MAX_BYTES, Manifest
from schemas.migration import migrated
from schemas.schema import Schema
from schemas.store.ownfiles import replace_file
from schemas.store.storage import normal, shown

KEPT = ".catalog-manifests.json"
"""What was read of manifests, beside the datasets; it may be removed at any time."""

RECORDS_END = ".records"
_FORMAT = 1
_PASSED_OVER = ("logs",)
_RUN_END = ".run"
_VARIANT = re.compile(r"-(?P<variant>[0-9a-f]{8})(?P<end>\.records)?$")
_NUMBERED = re.compile(r"(iter|step)=(\d{1,9})")
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ColumnText:
    """A column: its name, the type that DuckDB reads it as, its meaning, and what its file holds (empty: nothing, it
    is null there; another type than `kind`: rows of an earlier version).
    """

    name: str
    kind: str
    meaning: str
    stored: str


@dataclass(frozen=True, kw_only=True)
class Made:
    """What one manifest says. `files` and `rejected` are (path, rows, bytes), `parents` (name, url, digest, key)."""

    kind: str
    content_digest: str
    task_key: str
    rows_kind: str
    version: int
    row_key: tuple[str, ...]
    columns: tuple[ColumnText, ...]
    rejected_columns: tuple[ColumnText, ...]
    op: str
    params: Mapping[str, Any]
    seed: int
    files: tuple[tuple[str, int, int], ...]
    rejected: tuple[tuple[str, int, int], ...]
    parents: tuple[tuple[str, str, str, str], ...]
    facts: Mapping[str, Any]
    means: Mapping[str, float]
    reasons: Mapping[str, int]
    created: str
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A dataset or checkpoint of a workspace: where it lies, and what its manifest says."""

    root: str
    place: str
    """Its folder, as seen from the root."""
    published_ns: int
    damage: str
    """What of its files is not as the manifest says; empty where all are there in their sizes."""
    made: Made

    @property
    def name(self) -> str:
        """The place without the key behind it: the same for every variant of a result."""
        return _VARIANT.sub(lambda match: match["end"] or "", self.place)

    @property
    def variant(self) -> str | None:
        """The first characters of the task key, where the place ends in them."""
        match = _VARIANT.search(self.place)
        return match["variant"] if match else None

    @property
    def stage(self) -> str:
        """The last part of the name."""
        return self.name.rpartition("/")[2]

    @property
    def recipe(self) -> str | None:
        """The first folder of the place."""
        return next(iter(self._folders), None)

    @property
    def experiment(self) -> str | None:
        """The folders behind it that are no iterations or steps."""
        return "/".join(self._folders[1:]) or None

    @property
    def iteration(self) -> int | None:
        """Which iteration of the recipe made it."""
        return self._numbers.get("iter")

    @property
    def step(self) -> int | None:
        """Which improve step of the iteration made it."""
        return self._numbers.get("step")

    @property
    def rows(self) -> int:
        """Rows of all shards; 0 for a checkpoint."""
        return sum(rows for _, rows, _ in self.made.files)

    @property
    def bytes(self) -> int:
        """Bytes of all files, rejected rows among them."""
        return sum(size for _, _, size in (*self.made.files, *self.made.rejected))

    @property
    def finished(self) -> tuple[int, int]:
        """When it was finished, to compare: by its own clock in seconds, then by that of the file system."""
        with suppress(ValueError, OverflowError):
            moment = datetime.fromisoformat(self.made.created)
            return int(moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp()), self.published_ns
        return self.published_ns // 10**9, self.published_ns

    @property
    def keys(self) -> list[str]:
        """Task keys that its facts name: of the models that gave its rows or weights something."""
        values = [value for fact in self.made.facts.values() for value in (fact if isinstance(fact, list) else [fact])]
        return [value for value in values if isinstance(value, str) and _KEY.fullmatch(value)]

    @property
    def _folders(self) -> list[str]:
        return [part for part in self.place.split("/")[:-1] if not _NUMBERED.fullmatch(part)]

    @property
    def _numbers(self) -> dict[str, int]:
        matches = (_NUMBERED.fullmatch(part) for part in self.place.split("/")[:-1])
        return {match[1]: int(match[2]) for match in matches if match}


@dataclass(frozen=True)
class Workspace:
    """Everything below `root`: `entries` in the order of their places, and why manifests could not be read."""

    root: str
    entries: tuple[Entry, ...]
    unreadable: Mapping[str, str]
    views_digest: str
    """SHA-256 of all that views are made of."""


def read_workspace(root: str) -> Workspace:
    """The manifests below `root`, a local folder; `ConfigError` for another place, or none."""
    top = normal(root)
    if "://" in top or not os.path.isdir(top):
        raise ConfigError(
            "no-workspace",
            f"there is no workspace at {shown(top)}",
            expected="a local folder that holds datasets",
            found="another kind of store" if "://" in top else "no folder",
            kept="nothing was read",
            next="name the folder that commands write to: --root FOLDER, or root in section [quiver] of luigi.cfg",
        )
    kept, seen = _kept(top), dict[str, Any]()
    entries: list[Entry] = []
    unreadable: dict[str, str] = {}
    hasher = hashlib.sha256(f"{_FORMAT} {top}".encode("utf-8", "surrogateescape"))
    for place, path, published_ns in sorted(_manifests(top, "")):
        try:
            place.encode()
            data = _bytes(path)
            sha256 = hashlib.sha256(data).hexdigest()
            made = _understood(kept[sha256]) if sha256 in kept else None
            made = made or _made_of(Manifest.from_bytes(data, f"{top}/{place}"))
        except (QuiverError, OSError, UnicodeEncodeError) as error:
            unreadable[place] = error.what if isinstance(error, QuiverError) else str(error)
            continue
        seen[sha256] = kept[sha256] if sha256 in kept else asdict(made)
        damage = _damage(f"{top}/{place}", made)
        entries.append(Entry(root=top, place=place, published_ns=published_ns, damage=damage, made=made))
        hasher.update(f"\n{place}\0{sha256}\0{published_ns}\0{damage}".encode("utf-8", "surrogateescape"))
    if seen.keys() != kept.keys():
        with suppress(QuiverError, OSError):
            replace_file(Path(top, KEPT), json.dumps({"format": _FORMAT, "manifests": seen}))
    return Workspace(top, tuple(entries), unreadable, hasher.hexdigest())


def _manifests(top: str, below: str) -> Iterator[tuple[str, str, int]]:
    """Place, manifest and its time of every folder below `top` that has one; nothing is looked for inside of these."""
    with suppress(OSError):
        path = f"{top}/{below}{MANIFEST}"
        yield below.rstrip("/"), path, os.lstat(path).st_mtime_ns
        return
    try:
        with os.scandir(f"{top}/{below}") as listed:
            folders = [entry.name for entry in listed if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for name in folders:
        if name[0] not in "._" and not name.endswith(_RUN_END) and name not in _PASSED_OVER:
            yield from _manifests(top, f"{below}{name}/")


def _bytes(path: str) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{MANIFEST} is no regular file")
        return file.read(MAX_BYTES)


def _damage(folder: str, made: Made) -> str:
    """The first file that is not as the manifest says, by its size."""
    if any(os.path.islink(f"{folder}/{above}") for above in {os.path.dirname(path) for path, *_ in made.rejected}):
        return "its rejected rows lie behind a link"
    for path, _, size in (*made.files, *made.rejected):
        try:
            there = os.lstat(f"{folder}/{path}")
        except OSError:
            return f"{path} is gone"
        if not stat.S_ISREG(there.st_mode):
            return f"{path} is no regular file"
        if there.st_size != size:
            return f"{path} has {there.st_size:,} bytes, its manifest says {size:,}"
    return ""


def _made_of(manifest: Manifest) -> Made:
    stats = manifest.stats.get("columns")
    reasons = manifest.stats.get("rejected")
    created, seconds = manifest.runtime_info.get("created"), manifest.runtime_info.get("seconds")
    op, params = manifest.op.get("name"), manifest.op.get("params")
    return Made(
        kind=manifest.kind,
        content_digest=manifest.content_digest,
        task_key=manifest.task_key,
        rows_kind="" if manifest.schema is None else manifest.schema.name,
        version=0 if manifest.schema is None else manifest.schema.version,
        row_key=() if manifest.schema is None else manifest.schema.key,
        columns=_columns(manifest.schema),
        rejected_columns=_columns(manifest.rejected_schema),
        op=op if isinstance(op, str) else "",
        params=params if isinstance(params, dict) else {},
        seed=manifest.seed,
        files=tuple((file.path, file.rows, file.bytes) for file in manifest.files),
        rejected=tuple((file.path, file.rows, file.bytes) for file in manifest.rejected),
        parents=tuple((one.name, one.url, one.content_digest, one.task_key) for one in manifest.parents),
        facts=manifest.facts,
        means=_numbers({name: one.get("mean") for name, one in _object(stats).items() if isinstance(one, dict)}),
        reasons={name: int(count) for name, count in _numbers(_object(reasons)).items()},
        created=created if isinstance(created, str) else "",
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
    )


def _columns(schema: Schema | None) -> tuple[ColumnText, ...]:
    """The columns as rows are read today, each with what its file holds of it."""
    if schema is None:
        return ()
    stored = {column.name: kind(column.type) for column in schema.columns}
    return tuple(
        ColumnText(column.name, kind(column.type), column.meaning, stored.get(column.name, ""))
        for column in migrated(schema).columns
    )


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    }


def _kept(top: str) -> dict[str, Any]:
    """What was made of manifests before, by the SHA-256 of their bytes; nothing where that cannot be read."""
    try:
        kept = json.loads(_bytes(f"{top}/{KEPT}"))
        return dict(kept["manifests"]) if kept["format"] == _FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


_TUPLES: Mapping[str, Any] = {
    "row_key": str,
    "columns": lambda one: ColumnText(**one),
    "rejected_columns": lambda one: ColumnText(**one),
    "files": tuple,
    "rejected": tuple,
    "parents": tuple,
}


def _understood(kept: Any) -> Made | None:
    """What was kept, as it was; None where somebody else wrote it."""
    try:
        values = {field.name: kept[field.name] for field in fields(Made)}
        return Made(**values | {name: tuple(map(read, values[name])) for name, read in _TUPLES.items()})
    except (KeyError, TypeError, ValueError):
        return None
