"""What lies below a root, read off its manifests: no shard is opened."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone

from datakit.catalog.made import Made
from datakit.catalog.manifest_cache import ManifestCache, Version
from schemas.errors import ConfigError, QuiverError
from schemas.manifest import MANIFEST
from schemas.run_layout import DROPPED, LOGS, ROLLOUTS, RUN_END
from schemas.store.storage import normal, shown

GONE = "its rows were dropped (keep_rollouts)"
_PASSED_OVER = (LOGS,)
_ROLLOUTS = f"{RUN_END}/{ROLLOUTS}/"
_VARIANT = re.compile(r"-(?P<variant>[0-9a-f]{8})(?P<end>\.records)?$")
_NUMBERED = re.compile(r"(iter|step)=(\d{1,9})")
_KEY = re.compile(r"[0-9a-f]{64}")


def run_folder(place: str) -> str:
    """The folders above `place` that are no iterations or steps: those of its recipe and experiment."""
    return "/".join(part for part in place.split("/")[:-1] if not _NUMBERED.fullmatch(part))


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
    def run(self) -> str:
        """The folder of its recipe and experiment."""
        return run_folder(self.place)

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
        return [part for part in run_folder(self.place).split("/") if part]

    @property
    def _numbers(self) -> dict[str, int]:
        matches = (_NUMBERED.fullmatch(part) for part in self.place.split("/")[:-1])
        return {match[1]: int(match[2]) for match in matches if match}


@dataclass(frozen=True)
class Workspace:
    """Everything below `root`: `entries` in the order of their places, what online runs drew
    (`datakit.catalog.rollouts`) and what of it was `dropped` (`keep_rollouts`: its manifests alone are left), and why
    manifests could not be read.
    """

    root: str
    entries: tuple[Entry, ...]
    rollouts: tuple[Entry, ...]
    dropped: tuple[Entry, ...]
    unreadable: Mapping[str, str]
    views_digest: str
    """SHA-256 of all that views are made of."""


def read_workspace(root: str, *, remember: bool = True) -> Workspace:
    """The manifests below `root`, a local folder; `ConfigError` for another place, or none. With `remember` a file
    there says what was read, for the next time.
    """
    top = normal(root)
    if "://" in top or not os.path.isdir(top):
        raise ConfigError(
            "no-workspace",
            f"there is no workspace at {shown(top)}",
            expected="a local folder that holds datasets",
            found="another kind of store" if "://" in top else "no folder",
            kept="nothing was read",
            next="make something there (quiver recipes lists what), or name the folder that commands write to: "
            "--root FOLDER, or root in section [quiver] of luigi.cfg",
        )
    cache = ManifestCache.read(top)
    entries: list[Entry] = []
    unreadable: dict[str, str] = {}
    hasher = hashlib.sha256(top.encode("utf-8", "surrogateescape"))
    for place, path, there in sorted(_manifests(top, "")):
        try:
            place.encode()
            sha256, made = cache.of(place, path, there)
        except (QuiverError, OSError, UnicodeEncodeError) as error:
            unreadable[place] = error.what if isinstance(error, QuiverError) else str(error)
            continue
        damage = GONE if path.endswith(DROPPED) else _damage(f"{top}/{place}", made)
        entries.append(Entry(root=top, place=place, published_ns=there[3], damage=damage, made=made))
        hasher.update(f"\n{place}\0{sha256}\0{there[3]}\0{damage}".encode("utf-8", "surrogateescape"))
    if remember:
        cache.write(top)
    results, drawn = ([one for one in entries if (_ROLLOUTS in one.place) == inside] for inside in (False, True))
    rollouts, dropped = (tuple(one for one in drawn if (one.damage == GONE) == gone) for gone in (False, True))
    return Workspace(top, tuple(results), rollouts, dropped, unreadable, hasher.hexdigest())


def _manifests(top: str, below: str) -> Iterator[tuple[str, str, Version]]:
    """Place, manifest and its version of every folder below `top` that has one; these are not looked into."""
    for name in (MANIFEST, DROPPED) if _ROLLOUTS in below else (MANIFEST,):
        with suppress(OSError):
            path = f"{top}/{below}{name}"
            there = os.lstat(path)
            yield below.rstrip("/"), path, (there.st_ino, there.st_size, there.st_ctime_ns, there.st_mtime_ns)
            return
    try:
        with os.scandir(f"{top}/{below}") as listed:
            folders = [entry.name for entry in listed if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for name in folders:
        if name.endswith(RUN_END):
            yield from _manifests(top, f"{below}{name.removesuffix(RUN_END)}{_ROLLOUTS}")
        elif name[0] not in "._" and name not in _PASSED_OVER:
            yield from _manifests(top, f"{below}{name}/")


def _damage(folder: str, made: Made) -> str:
    """The first file that is not as the manifest says, by its size."""
    listed = (*made.files, *made.rejected)
    folders = {path[:at] for path, *_ in listed for at, letter in enumerate(path) if letter == "/"}
    if any(os.path.islink(f"{folder}/{above}") for above in folders):
        return "some of its files lie behind a link"
    for path, _, size in listed:
        try:
            there = os.lstat(f"{folder}/{path}")
        except OSError:
            return f"{path} is gone"
        if not stat.S_ISREG(there.st_mode):
            return f"{path} is no regular file"
        if there.st_size != size:
            return f"{path} has {there.st_size:,} bytes, its manifest says {size:,}"
    return ""
