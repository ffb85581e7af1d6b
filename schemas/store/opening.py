"""A URL becomes its `Store`: a local folder, or an object store through fsspec (`memory://`, `s3://`)."""

from __future__ import annotations

import os

from schemas.store.local import LocalStore
from schemas.store.storage import Store, normal


def open_store(url: str | os.PathLike[str]) -> tuple[Store, str]:
    """The store of a URL and the path in it."""
    place = normal(url)
    if "://" not in place:
        return LocalStore(), place
    from schemas.store.objects import ObjectStore

    protocol, path = place.split("://", 1)
    return ObjectStore(protocol), path


def named_file(url: str | os.PathLike[str]) -> tuple[Store, str]:
    """The store and path of an input that a person named; links of a local path are resolved, this once.

    Model hubs keep downloads as links into a folder of blobs. Datasets and whatever is written stay without links: they
    are opened by `open_store`.
    """
    store, path = open_store(url)
    return store, path if "://" in normal(url) else os.path.realpath(path)
