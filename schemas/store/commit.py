"""How a folder becomes complete, at once or not at all; the same for datasets and checkpoints.

A run writes into its own attempt folder, `_attempt-<random>/`, beside the final names. Publishing happens
while holding the folder: leftovers of failed promotions are rolled back, the attempt's plan is written, its
files are moved to their final names, and `_manifest.json` is created if absent; that last step is the
commit. Who finds a manifest there compares digests: equal means done already, different means conflict. Dead
attempts are removed by the next start, never by a reader.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shlex
from collections.abc import Iterable
from contextlib import suppress

from schemas.errors import ConfigError, ConflictError, IntegrityError, QuiverError, StorageError
from schemas.manifest import MANIFEST, MAX_BYTES, File, Manifest, Parent
from schemas.store.opening import open_store
from schemas.store.owner import Owner
from schemas.store.storage import Store, inside, normal, relative, shown

LEASE_SECONDS = 7 * 86400.0
"""After this long an attempt of another host, whose process cannot be looked at, counts as dead."""

_PREFIX = "_attempt-"
_ATTEMPT = re.compile(_PREFIX + "[0-9a-f]{16}")
_OWNER = "_owner.json"
_PLAN = "_plan.json"
_log = logging.getLogger("quiver.commit")


def put_if_absent(url: str, data: bytes, scratch: str) -> bool:
    """Create the file `url` whole and durable in one step; False, and nothing changed, if it exists.

    `scratch` is a folder of the same store that may hold a temporary file meanwhile.
    """
    store, path = open_store(url)
    return store.put_if_absent(path, data, open_store(scratch)[1])


def read_manifest(url: str) -> Manifest | None:
    """The manifest of a folder; None if there is none; `IntegrityError` if it cannot be trusted."""
    store, root = open_store(url)
    return _read(store, root)


def find_existing(url: str, task_key: str, kind: str, inputs: Iterable[Parent] = ()) -> Manifest | None:
    """What is at `url` already, if `existing` takes it for the `kind` with this task key."""
    return existing(read_manifest(url), url, task_key, kind, inputs)


def existing(
    manifest: Manifest | None, url: str, task_key: str, kind: str, inputs: Iterable[Parent] = ()
) -> Manifest | None:
    """`manifest`, which is at `url`, if it is the `kind` with this task key; `ConflictError` if it is another's, or if
    it was made of other content than one of `inputs` has: what stands now of that which it would be made of (what is
    gone is not among them). They are not asked for before there is a manifest.

    Without a key a `kind` that stands there is None too: publishing finds out whether it has the same content.
    """
    if manifest is None or (not task_key and manifest.kind == kind):
        return None
    if manifest.kind == kind and manifest.task_key == task_key:
        _check_made_of(manifest, url, inputs)
        return manifest
    raise ConflictError(
        "out-taken",
        f"{shown(url)} already holds a {manifest.kind} of another run",
        expected=f"{kind}, key {task_key[:12]}",
        found=f"{manifest.kind}, key {manifest.task_key[:12]}",
        where=shown(url),
        kept="what is there; nothing was started",
        next="choose another place, or remove it",
    )


def replaced(manifest: Manifest, inputs: Iterable[Parent]) -> tuple[Parent, Parent] | None:
    """The first parent in `manifest` that one of `inputs` has taken the place of with other content, and that input:
    of the same name and key, with another digest. None where there is none.
    """
    made_of = {(parent.name, parent.task_key): parent for parent in manifest.parents}
    for now in inputs if made_of else ():
        then = made_of.get((now.name, now.task_key), now)
        if then.content_digest != now.content_digest:
            return then, now
    return None


def _check_made_of(manifest: Manifest, url: str, inputs: Iterable[Parent]) -> None:
    other = replaced(manifest, inputs)
    if other is not None:
        then, now = other
        raise ConflictError(
            "input-replaced",
            f"{shown(url)} was made from other content than stands in {shown(now.url)} now",
            expected=f"digest {then.content_digest[:12]}",
            found=f"digest {now.content_digest[:12]}",
            where=shown(now.url),
            kept="everything; nothing was started",
            next=f"remove {shown(url)}" if "://" in url else f"rm -r {shlex.quote(relative(url))}",
        )


def begin_attempt(url: str, folders: Iterable[str] = (), lease: float = LEASE_SECONDS) -> str:
    """Make an attempt folder below `url` with the given sub-folders, sweep dead ones; returns its name.

    `ConfigError` if the store cannot publish safely, `IntegrityError` if a torn manifest stands in the way.
    """
    store, root = open_store(url)
    store.make_folder(root)
    name = _PREFIX + os.urandom(8).hex()
    attempt = store.join(root, name)
    with store.exclusive(root):
        _read(store, root)
        try:
            store.make_folder(attempt)
            owner = store.join(attempt, _OWNER)
            first, second = (store.put_if_absent(owner, Owner.mine().to_bytes(), attempt) for _ in range(2))
            if not first or second:
                raise _lying(url)
            for folder in folders:
                store.make_folder(store.join(attempt, inside(folder, url)))
            _sweep(store, root, now=store.modified(owner), lease=lease)
        except BaseException:
            with suppress(QuiverError, OSError):
                store.remove_tree(attempt)
                store.remove_empty(root)
            raise
    return name


def publish_folder(url: str, attempt: str, manifest: Manifest) -> Manifest:
    """Make the attempt's files, which `manifest` lists, the content of `url`; returns the manifest that
    stands there.

    The same content there already is success; different content is `ConflictError`. The attempt is gone
    afterwards, whether this succeeds or not.
    """
    store, root = open_store(url)
    try:
        manifest = Manifest.from_bytes(manifest.to_bytes(), url)
        with store.exclusive(root):
            standing = _read(store, root)
            if standing is None:
                standing = _promote(store, root, attempt, manifest)
            _settle(standing, manifest, url)
    except BaseException:
        with suppress(QuiverError, OSError):
            discard_attempt(url, attempt)
        raise
    try:
        store.remove_tree(store.join(root, inside(attempt, url)))
    except (QuiverError, OSError) as error:
        _log.warning("published %s, but its attempt folder %s stays: %s", shown(url), attempt, error)
    return standing


def discard_attempt(url: str, attempt: str) -> None:
    """Remove an attempt, what it had promoted before it failed, and its folder where nothing else is in it; fine if it
    is gone already.
    """
    store, root = open_store(url)
    folder = store.join(root, inside(attempt, url))
    if not store.names(folder):
        store.remove_empty(folder)
        return
    with store.exclusive(root):
        _remove(store, root, attempt, _read(store, root))
        store.remove_empty(root)


def sweep(url: str, lease: float = LEASE_SECONDS) -> list[str]:
    """Remove the dead attempts of a folder; returns their names. For starts and garbage collection, not for
    readers.
    """
    store, root = open_store(url)
    if not any(name.startswith("_") and name != MANIFEST for name in store.names(root)):
        return []
    with store.exclusive(root):
        return _sweep(store, root, now=_now(store, root), lease=lease)


def attempt_is_dead(url: str, now: float, lease: float = LEASE_SECONDS) -> bool:
    """Whether nobody writes in the attempt folder at `url` any more; `now` in seconds, as the store's clock has it."""
    store, folder = open_store(url)
    return _is_dead(store, folder, now, lease)


def hash_files(url: str, attempt: str) -> tuple[File, ...]:
    """Hash and sync every file that other code (a checkpoint writer) left in an attempt folder."""
    store, root = open_store(url)
    folder = store.join(root, inside(attempt, url))
    files = []
    for name in store.walk(folder):
        if name in (_OWNER, _PLAN):
            continue
        path = store.join(folder, inside(name, url))
        store.sync(path)
        files.append(File(name, 0, *_hash(store, path)))
    return tuple(files)


def attempt_path(url: str, attempt: str) -> str:
    """URL of an attempt folder."""
    return f"{normal(url)}/{attempt}"


def _hash(store: Store, path: str) -> tuple[int, str]:
    state, size = hashlib.sha256(), 0
    with store.open(path) as file:
        while block := file.read(1 << 20):
            state.update(block)
            size += len(block)
    return size, state.hexdigest()


def _read(store: Store, root: str) -> Manifest | None:
    try:
        return Manifest.from_bytes(store.read(store.join(root, MANIFEST), MAX_BYTES), root)
    except FileNotFoundError:
        return None


def _promote(store: Store, root: str, attempt: str, manifest: Manifest) -> Manifest:
    """Move the files, then create the manifest; the folder is held and has no manifest."""
    for name in store.names(root):
        if _ATTEMPT.fullmatch(name) and name != attempt:
            _roll_back(store, root, name, None)
    source = store.join(root, inside(attempt, root))
    paths = [file.path for file in (*manifest.files, *manifest.rejected)]
    for file in (*manifest.files, *manifest.rejected):
        _expect(store, store.join(source, file.path), file)
    plan = store.create(store.join(source, _PLAN))
    try:
        plan.write(json.dumps(paths).encode())
        plan.finish()
    except BaseException:
        plan.abort()
        raise
    store.sync(source)
    folders = {root, *(os.path.dirname(store.join(root, path)) for path in paths)}
    for folder in sorted(folders):
        store.make_folder(folder)
    for path in paths:
        store.move(store.join(source, path), store.join(root, path))
    for folder in sorted(folders, reverse=True):
        store.sync(folder)
    if store.put_if_absent(store.join(root, MANIFEST), manifest.to_bytes(), source):
        return manifest
    standing = _read(store, root)
    assert standing is not None, f"{root}: a manifest that exists cannot be read"
    return standing


def _settle(standing: Manifest, mine: Manifest, url: str) -> None:
    if standing.content_digest != mine.content_digest:
        raise ConflictError(
            "already-written",
            f"{shown(url)} was committed by another run, with different content",
            expected=f"digest {mine.content_digest[:12]}, {mine.num_rows} rows",
            found=f"digest {standing.content_digest[:12]}, {standing.num_rows} rows",
            where=shown(url),
            kept="what was committed first; nothing was overwritten",
            next="use what is there, or write to another folder",
        )


def _expect(store: Store, path: str, file: File) -> None:
    size = store.size(path)
    if size != file.bytes:
        raise StorageError(
            "attempt-damaged",
            f"a file of this run is gone or changed before it was published: {shown(file.path)}",
            expected=f"{file.bytes} bytes",
            found="no file" if size is None else f"{size} bytes",
            where=shown(path),
            kept="what was published before; nothing of this run is visible",
            next="run the same command again",
        )


def _now(store: Store, root: str) -> float:
    """The time by the store's own clock: when a file that is written now counts as written."""
    probe = store.join(root, _PREFIX + os.urandom(8).hex())
    sink = store.create(probe)
    try:
        sink.write(b"now")
        sink.finish()
        return store.modified(probe)
    finally:
        store.remove(probe)


def _sweep(store: Store, root: str, now: float, lease: float) -> list[str]:
    """Remove dead attempts; the folder is held, so one without an owner is half removed."""
    manifest, swept = _read(store, root), []
    for name in store.names(root):
        if _ATTEMPT.fullmatch(name) and _is_dead(store, store.join(root, name), now, lease):
            _remove(store, root, name, manifest)
            swept.append(name)
    return swept


def _is_dead(store: Store, folder: str, now: float, lease: float) -> bool:
    try:
        owner = Owner.from_bytes(store.read(store.join(folder, _OWNER), 4096))
        dead = None if owner is None else owner.dead()
        if dead is None:
            return now - store.modified(store.join(folder, _OWNER)) > lease
    except FileNotFoundError:
        return True
    return dead is True


def _remove(store: Store, root: str, attempt: str, manifest: Manifest | None) -> None:
    """Roll back and remove an attempt, the owner last, so that a removal that stops half-way is seen as
    dead.
    """
    _roll_back(store, root, attempt, manifest)
    folder = store.join(root, attempt)
    for name in store.walk(folder):
        if name != _OWNER:
            store.remove(store.join(folder, name))
    store.remove_tree(folder)


def _roll_back(store: Store, root: str, attempt: str, manifest: Manifest | None) -> None:
    """Remove what a failed promotion left under final names; the folder is held, so none is under way."""
    plan = store.join(store.join(root, attempt), _PLAN)
    try:
        paths = json.loads(store.read(plan, MAX_BYTES))
    except (FileNotFoundError, ValueError):
        return
    published = set() if manifest is None else {file.path for file in (*manifest.files, *manifest.rejected)}
    folders = set()
    for path in paths if isinstance(paths, list) else []:
        with suppress(IntegrityError):
            if inside(path, root) not in published:
                store.remove(store.join(root, path))
                folders.add(os.path.dirname(path))
    for folder in sorted(folders, reverse=True):
        if folder:
            store.remove_empty(store.join(root, folder))
    store.remove(plan)


def _lying(url: str) -> ConfigError:
    return ConfigError(
        "store-lacks-put-if-absent",
        f"the store of {shown(url)} lets a second writer overwrite the first",
        expected="a store that refuses to create a file that exists",
        kept="nothing was changed",
        next="write to another place, or update its client (s3fs, botocore)",
    )
