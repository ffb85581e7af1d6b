"""Shards as the files of a file system whose every opening is verified: for libraries that read Parquet themselves.

DuckDB opens a file by its name, when a query runs and as often as it likes. Behind a name of this file system stands
one file of one manifest: each opening checks that it is the one that was verified before (inode, size, times), or its
digest once more.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, BinaryIO
from urllib.parse import quote

from fsspec import AbstractFileSystem

from schemas.manifest import File
from schemas.shards import Verify, verified_bytes


class VerifiedFiles(AbstractFileSystem):
    """Files by names that `name_shards` gave. Read only; a file that is not the manifest's is `IntegrityError`."""

    protocol = "quiververified"
    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self._files: dict[str, tuple[str, File, Verify]] = {}

    def name_shards(self, url: str, content_digest: str, shards: Sequence[File], verify: Verify) -> list[str]:
        """The names of the shards of the dataset at `url` with that `content_digest`, in order."""
        names = [f"{self.protocol}://{verify}/{content_digest[:12]}/{quote(url)}/{file.path}" for file in shards]
        self._files.update((name, (url, file, verify)) for name, file in zip(names, shards, strict=True))
        return names

    def glob(self, path: str, maxdepth: int | None = None, **options: Any) -> list[str]:
        """The name itself: no name is a pattern."""
        return [path] if path in self._files else []

    def exists(self, path: str, **options: Any) -> bool:
        """Whether the name was given; what stands behind it is seen when it is opened."""
        return path in self._files

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Name and size, as the manifest says."""
        return {"name": path, "size": self._named(path).bytes, "type": "file"}

    def modified(self, path: str) -> datetime:
        """Always the same: the file behind a name never becomes another."""
        return datetime.fromtimestamp(0, timezone.utc)

    def open(self, path: str, mode: str = "rb", *more: Any, **options: Any) -> Any:
        """A reader of verified bytes."""
        url, file, verify = self._files[path]
        if "r" not in mode:
            raise PermissionError(f"{self.protocol} is read only")
        return _Reader(verified_bytes(url, file, verify))

    def _named(self, path: str) -> File:
        if path not in self._files:
            raise FileNotFoundError(path)
        return self._files[path][1]


class _Reader:
    """A file with a place of its own for every thread (DuckDB seeks and reads in two calls, in many threads at once),
    closed when nobody refers to it any more (DuckDB only lets go).
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source, self._one_at_a_time, self._places = source, threading.Lock(), dict[int, int]()

    def seek(self, place: int) -> int:
        """Where this thread reads next."""
        self._places[threading.get_ident()] = place
        return place

    def tell(self) -> int:
        """Where this thread reads next."""
        return self._places.get(threading.get_ident(), 0)

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes from there on."""
        place = self.tell()
        with self._one_at_a_time:
            self._source.seek(place)
            data = self._source.read(size)
        self.seek(place + len(data))
        return data

    def close(self) -> None:
        """Let go of the file."""
        self._source.close()

    def __del__(self) -> None:
        self.close()


FILES = VerifiedFiles()
