"""Where a conversion reads and writes: local folders."""

from __future__ import annotations

from schemas.errors import ConfigError
from schemas.store.local import LocalStore
from schemas.store.opening import open_store
from schemas.store.storage import shown


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
