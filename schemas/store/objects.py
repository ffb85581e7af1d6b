"""Object stores (`s3://`) and `memory://` as a `Store`, through fsspec.

Objects appear whole or not at all, folders do not exist, and there are no locks: exclusion is a claim object
created with `If-None-Match`, taken over with `If-Match` when its owner is dead or its lease (by the store's
clock) has run out.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, BinaryIO, cast

import fsspec

from schemas.errors import ConfigError, ConflictError, IntegrityError, QuiverError
from schemas.installed import with_extra
from schemas.store.owner import Owner
from schemas.store.storage import MAY_MISS, shown, storage_error

WAIT_SECONDS = 60.0
CLAIM_LEASE_SECONDS = 900.0
_CLAIM = "_claim.json"
_memory_lock = threading.RLock()
_claims: set[bytes] = set()  # claims of this process; another one in its name is one that could not be removed


class ObjectSink:
    """An object being uploaded; it appears at `finish`."""

    def __init__(self, fs: Any, path: str) -> None:
        self._fs, self._path = fs, path
        with _guarded("create", path):
            self._file = fs.open(path, "wb")

    def write(self, data: bytes) -> None:
        """Append `data` to the parts of the upload; nothing is visible before `finish`."""
        with _guarded("write", self._path):
            self._file.write(data)

    def finish(self) -> None:
        """Complete the upload: the object is there whole, in one step."""
        with _guarded("finish", self._path):
            self._file.close()

    def abort(self) -> None:
        """Abort the upload; closing the file object would publish it."""
        with suppress(Exception):
            self._file.discard()
        with suppress(Exception):
            self._file.closed = True
        with suppress(Exception):
            self._fs.rm_file(self._path)


class ObjectStore:
    """Object stores by fsspec: buckets, and the memory file system of tests."""

    def __init__(self, protocol: str) -> None:
        self._protocol, self._memory = protocol, protocol == "memory"
        options: dict[str, Any] = {} if self._memory else {"use_listings_cache": False}
        with _guarded("open", f"{protocol}://"):
            self._fs = fsspec.filesystem(protocol, **options)

    def join(self, folder: str, name: str) -> str:
        """The key of `name` below `folder`."""
        return f"{folder}/{name}" if name else folder

    def read(self, path: str, limit: int) -> bytes:
        """All bytes of an object."""
        size = self.size(path)
        if size is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", path)
        if size > limit:
            raise IntegrityError("too-large", f"{shown(path)} is too large", expected=f"at most {limit} bytes")
        with _guarded("read", path):
            return bytes(self._fs.cat_file(path))

    def open(self, path: str) -> BinaryIO:
        """A reader with its own position."""
        with _guarded("read", path):
            if self._memory:
                import io

                return io.BytesIO(self._fs.cat_file(path))
            return cast(BinaryIO, self._fs.open(path, "rb"))

    def create(self, path: str) -> ObjectSink:
        """A sink whose object appears at `path` when it is finished."""
        return ObjectSink(self._fs, path)

    def put_if_absent(self, path: str, data: bytes, scratch: str) -> bool:
        """One conditional PUT; the store must refuse the second."""
        with _guarded("publish", path):
            try:
                if self._protocol == "s3":
                    self._fs.pipe_file(path, data, IfNoneMatch="*")
                elif self._memory:
                    with _memory_lock:
                        if self._fs.exists(path):
                            return False
                        self._fs.pipe_file(path, data)
                else:
                    self._fs.pipe_file(path, data, mode="create")
            except Exception as error:
                if _precondition_failed(error):
                    return False
                with suppress(Exception):
                    if self._fs.cat_file(path) == data:
                        return True  # only the reply was lost
                raise
        return True

    def move(self, source: str, target: str) -> None:
        """A copy inside the store, then removal of the source."""
        with _guarded("move", target):
            self._fs.cp_file(source, target)
            self._fs.rm_file(source)

    def size(self, path: str) -> int | None:
        """Bytes of an object; None for a prefix, or where nothing is."""
        facts = self._info(path)
        return None if facts is None or facts.get("type") != "file" else int(facts["size"])

    def modified(self, path: str) -> float:
        """When the store says the object was made."""
        facts = self._info(path)
        if facts is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", path)
        moment = facts.get("LastModified") or facts.get("created") or facts.get("mtime")
        return moment.timestamp() if isinstance(moment, datetime) else float(moment or 0.0)

    def version(self, path: str, opened: BinaryIO) -> tuple[Any, ...]:
        """What the store says of the object."""
        facts = self._info(path) or {}
        return (facts.get("size"), facts.get("ETag"), self.modified(path))

    def names(self, folder: str) -> list[str]:
        """First path parts below a prefix."""
        return sorted({path.split("/", 1)[0] for path in self.walk(folder)})

    def walk(self, folder: str) -> list[str]:
        """Sorted keys below a prefix, without it, as the store lists them now."""
        with _guarded("list", folder):
            root = self._fs._strip_protocol(folder).rstrip("/")
            paths = self._fs.find(folder) if self._memory else self._fs.find(folder, refresh=True)
        return sorted(path[len(root) + 1 :] for path in paths if path.startswith(f"{root}/"))

    def make_folder(self, folder: str) -> None:
        """Nothing to do: keys need no folders."""

    def sync(self, path: str) -> None:
        """Nothing to do: an object that exists is durable."""

    def remove(self, path: str) -> None:
        """Delete the object; fine if there is none."""
        with _guarded("remove", path), suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def remove_tree(self, folder: str) -> None:
        """Delete all keys below a prefix."""
        for name in self.walk(folder):
            self.remove(self.join(folder, name))
        self.remove_empty(folder)

    def remove_empty(self, folder: str) -> None:
        """Forget the folder that `memory://` keeps for a key."""
        if self._memory:
            with suppress(OSError):
                self._fs.rmdir(folder)

    @contextmanager
    def exclusive(self, folder: str) -> Iterator[None]:
        """Hold the claim object; processes of the same `memory://` are threads and share a lock."""
        if self._memory:
            with _memory_lock:
                yield
            return
        mine, path = Owner.mine().to_bytes(), self.join(folder, _CLAIM)
        _claims.add(mine)
        try:
            self._claim(path, mine)
            yield
        finally:
            _claims.discard(mine)
            self._let_go(path, mine)

    def _let_go(self, path: str, mine: bytes) -> None:
        """Remove the claim; one that cannot be removed is taken over by the next, so no fault is raised."""
        for _ in range(3):
            with suppress(Exception):
                if self._fs.cat_file(path) == mine:
                    self._fs.rm_file(path)
                return

    def _claim(self, path: str, mine: bytes) -> None:
        deadline, pause = time.monotonic() + WAIT_SECONDS, 0.05
        while not self.put_if_absent(path, mine, ""):
            if self._take_over(path, mine):
                return
            if time.monotonic() > deadline:
                raise ConflictError(
                    "busy",
                    f"another process holds {shown(path)}",
                    kept="nothing was changed",
                    next="wait for the other run, then run the same command again",
                )
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _take_over(self, path: str, mine: bytes) -> bool:
        """Replace a dead owner's claim, if it is still the one that was looked at."""
        facts = self._info(path)
        if facts is None:
            return False
        try:
            with _guarded("read", path):
                data = self._fs.cat_file(path)
        except FileNotFoundError:
            return False
        owner = Owner.from_bytes(data)
        let_go = owner is not None and owner.is_this_process() and data not in _claims
        if not let_go and (owner is None or owner.dead() is not True):
            age = datetime.now(facts["LastModified"].tzinfo) - facts["LastModified"]
            if age.total_seconds() < CLAIM_LEASE_SECONDS:
                return False
        with _guarded("claim", path):
            try:
                self._fs.pipe_file(path, mine, IfMatch=facts["ETag"])
            except FileNotFoundError:
                return False
            except Exception as error:
                if _precondition_failed(error):
                    return False
                raise
        return True

    def _info(self, path: str) -> dict[str, Any] | None:
        with _guarded("look at", path):
            try:
                return cast(dict[str, Any], self._fs.info(path, **({} if self._memory else {"refresh": True})))
            except FileNotFoundError:
                return None


@contextmanager
def _guarded(action: str, path: str) -> Iterator[None]:
    """Turn whatever a store's client raises into `StorageError`."""
    try:
        yield
    except QuiverError:
        raise
    except ImportError as error:
        raise ConfigError(
            "store-missing",
            f"no client for {shown(path)} is installed: {error}",
            kept="nothing was opened",
            next=with_extra("s3"),
        ) from error
    except Exception as error:
        if isinstance(error, FileNotFoundError) and action in MAY_MISS:
            raise
        raise storage_error(error, action, path) from error


def _precondition_failed(error: Exception) -> bool:
    if isinstance(error, FileExistsError):
        return True
    texts = [str(cause) for cause in (error, error.__cause__, error.__context__) if cause is not None]
    return any(
        mark in text for text in texts for mark in ("PreconditionFailed", "pre-condition", "ConditionalRequestConflict")
    )
