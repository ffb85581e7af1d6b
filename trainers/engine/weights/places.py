"""Where a conversion reads and writes: local folders, and what may stand there already."""

from __future__ import annotations

from schemas.commit import read_manifest
from schemas.errors import ConfigError, ConflictError
from schemas.localstore import LocalStore
from schemas.manifest import Manifest
from schemas.storage import open_store, shown


def local(url: str) -> str:
    """The path of a folder on this machine's file systems; `ConfigError` for any other."""
    store, root = open_store(url)
    if not isinstance(store, LocalStore):
        raise ConfigError(
            "not-local",
            f"{shown(url)} is not on a file system",
            expected="a local folder",
            kept="nothing was started",
            next="copy it there first",
        )
    return root


def standing_at(out: str, key: str, kind: str) -> Manifest | None:
    """What is at `out` already, if it is a `kind` with the task key `key`; `ConflictError` if it is anything else."""
    manifest = read_manifest(out)
    if manifest is None or (not key and manifest.kind == kind):
        return None
    if manifest.kind == kind and manifest.key == key:
        return manifest
    raise ConflictError(
        "out-taken",
        f"{shown(out)} already holds another {manifest.kind}",
        expected=f"key {key[:12]}",
        found=f"key {manifest.key[:12]}",
        where=shown(out),
        kept="what is there; nothing was started",
        next="choose another place, or remove it",
    )
