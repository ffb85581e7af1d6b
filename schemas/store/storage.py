"""What a place for bytes is: the contract `Store`, the rules for URLs, and how faults of the system are reported.

A URL is checked before anything is opened: every link of a chained URL must be on the allow-list, chains
themselves are refused, and credentials never travel in a URL (they would end up in manifests). Names found
inside data are resolved with `inside`, which refuses whatever would leave its root. Faults of the system
become `StorageError` with the errno's name.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, BinaryIO, Protocol

from schemas.errors import ConfigError, IntegrityError, QuiverError, StorageError, printable

PROTOCOLS = {"file", "memory", "s3"}
"""Protocols that may be opened. An operator may add one whose store has an atomic create
(`pipe_file(mode="create")`).
"""

MAY_MISS = frozenset({"read", "look at", "remove", "create"})
"""Actions on which `FileNotFoundError` passes through the stores as it is."""

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*)://")
_BARE_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]+):")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CREDENTIALS = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]*://[^/@\s]*@")
_USERINFO = re.compile(r"://(?:[^/\s]*@|[^/\s:@]*:(?!\d{1,5}[/?#,+])\S*@)")
"""What stands before a host; a password may hold a / that nobody escaped, what begins with a port is none."""
_WORD = re.compile(r"\S+")
_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.][A-Za-z0-9._=+\-]*")
_SLUGS = {
    errno.ENOSPC: "no-space",
    errno.EDQUOT: "quota",
    errno.EFBIG: "file-limit",
    errno.EROFS: "read-only",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.EMFILE: "too-many-files",
    errno.ENFILE: "too-many-files",
    errno.EIO: "io",
    errno.ENOENT: "not-there",
    errno.ENOTDIR: "not-a-folder",
    errno.EEXIST: "not-a-folder",
    errno.ENAMETOOLONG: "name-too-long",
    errno.ELOOP: "link",
}
_HINTS = {
    "no-space": "free some space, then run the same command again",
    "quota": "free some of the quota, then run the same command again",
    "file-limit": "raise `ulimit -f` or write to a file system with larger files, then run the same command again",
    "read-only": "write to another place, or remount this one",
    "denied": "check the owner and the permissions, then run the same command again",
    "not-a-folder": "a file stands where a folder is needed: move it, or write to another place",
    "link": "a link stands where we write: put the folder or file itself there, or write to another place",
    "name-too-long": "choose a shorter name: most file systems hold 255 bytes of one, and more is put behind it",
    "not-there": "write to another place, or make the folder above it first",
    "too-many-files": "raise `ulimit -n` or lower the number of processes, then run the same command again",
}
_CREDENTIALS_HINT = "set credentials in the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE)"


class Sink(Protocol):
    """A file being written: nothing is promised before `finish`, nothing is left after `abort`."""

    def write(self, data: bytes) -> None:
        """Append `data`; it may be kept in memory until `finish`."""

    def finish(self) -> None:
        """Make the bytes durable and close."""

    def abort(self) -> None:
        """Close and remove; never raises for storage's sake."""


class Store(Protocol):
    """What the commit protocol asks of a place. Paths are the store's own; `FileNotFoundError` passes
    through.
    """

    def join(self, folder: str, name: str) -> str:
        """The path of `name` (which passed `inside`) below `folder`."""

    def read(self, path: str, limit: int) -> bytes:
        """All bytes of a file; `IntegrityError` if there are more than `limit`."""

    def open(self, path: str) -> BinaryIO:
        """A binary reader of a file that can seek; whoever asks closes it."""

    def create(self, path: str) -> Sink:
        """A new file, replacing one of the same name; its folder must exist."""

    def put_if_absent(self, path: str, data: bytes, scratch: str) -> bool:
        """Create a whole, durable file in one step, by way of `scratch`; False if there is one already."""

    def move(self, source: str, target: str) -> None:
        """Move a file, replacing `target`."""

    def size(self, path: str) -> int | None:
        """Bytes of a file; None if there is none."""

    def modified(self, path: str) -> float:
        """When a file was written, in seconds, by the store's own clock."""

    def version(self, path: str, opened: BinaryIO) -> tuple[Any, ...]:
        """What no two contents of a file share: of `opened`, not of what may stand at `path` by now, where the store
        can say so.
        """

    def names(self, folder: str) -> list[str]:
        """Sorted names directly in a folder; none if there is no such folder."""

    def walk(self, folder: str) -> list[str]:
        """Sorted relative paths of all files below a folder; none if there is no such folder."""

    def make_folder(self, folder: str) -> None:
        """Make a folder and its parents, durably."""

    def sync(self, path: str) -> None:
        """Make a file's bytes, or a folder's entries, durable."""

    def remove(self, path: str) -> None:
        """Remove a file; fine if there is none."""

    def remove_tree(self, folder: str) -> None:
        """Remove a folder and all below it, links as links; fine if there is none."""

    def remove_empty(self, folder: str) -> None:
        """Remove a folder if nothing is in it."""

    def exclusive(self, folder: str) -> AbstractContextManager[None]:
        """Hold `folder` against all other processes; `ConflictError` after a minute of waiting."""


def shown(text: object) -> str:
    """`text` fit for a message: URL credentials and queries removed, control characters escaped."""
    return printable(_WORD.sub(_bare, str(text)), limit=400)


def _bare(word: re.Match[str]) -> str:
    """A word without credentials and query, if it is an address."""
    address, start = word.group(), word.group().find("://")
    if start < 0:
        return address
    end = address.rfind("@") + 1  # behind the last one nothing is looked for, so that looking stays linear
    address = _USERINFO.sub("://", address[:end]) + address[end:]
    query = address.find("?", start)
    return address if query < 0 else address[:query]


def normal(url: str | os.PathLike[str]) -> str:
    """The one spelling of a URL (absolute path for local places, no slash at the end), or `ConfigError`."""
    text = os.fspath(url)
    links = text.split("::")
    for link in links:
        protocol = _protocol(link)
        if protocol is not None and protocol not in PROTOCOLS:
            raise _refused("protocol", f"{protocol} is not a place Quiver may open", text)
    if len(links) > 1:
        raise _refused("chained-url", "chained URLs are not opened", text)
    if not text or _CONTROL.search(text):
        raise _refused("url", "a URL must not be empty or hold control characters", text)
    if _CREDENTIALS.match(text):
        raise _refused("credentials-in-url", "credentials must not be part of a URL", text)
    protocol = _protocol(text)
    if protocol is None or protocol == "file":
        path = re.sub(r"^file:(//)?", "", text, flags=re.IGNORECASE)
        return _absolute(os.path.expanduser(path))
    if "://" not in text:
        raise _refused("url", f"a place in {protocol} begins with {protocol}://", text)
    if "?" in text:
        raise _refused("query-in-url", "a signed query string is a credential and must not be part of a URL", text)
    rest = text.split("://", 1)[1].strip("/")
    if not rest or any(part in ("", ".", "..") for part in rest.split("/")):
        raise _refused("url", "a URL names a place below its root, without empty, '.' or '..' parts", text)
    return f"{protocol}://{rest}"


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        raise ConfigError(
            "no-working-folder",
            f"{shown(path)} cannot be looked for: the working folder has been removed",
            expected="a working folder that is there, or a path from / on",
            found=shown(path),
            kept="nothing was started",
            next="cd to a folder that is there, then run the same command again",
        ) from None


def relative(path: str | os.PathLike[str]) -> str:
    """A path as seen from the current folder; as it is where that folder has been removed."""
    try:
        return os.path.relpath(path)
    except FileNotFoundError:
        return os.fspath(path)


def lasting(url: str | os.PathLike[str]) -> str:
    """`normal(url)`; `ConfigError` for a place that is gone with this process."""
    place = normal(url)
    if place.startswith("memory://"):
        raise ConfigError(
            "memory",
            f"{shown(place)} is gone as soon as this command ends",
            expected="a local path or s3://",
            found=shown(place),
            kept="nothing was started",
            next="name a folder or a file; memory:// is for Python, within one process",
        )
    return place


def inside(name: str, where: str) -> str:
    """`name` if it is a plain relative path; `IntegrityError` for `..`, absolute paths, odd characters."""
    parts = name.split("/") if isinstance(name, str) else [""]
    if len(parts) > 8 or not all(_NAME.fullmatch(part) and len(part) <= 200 for part in parts):
        raise IntegrityError(
            "hostile-name",
            "a file name leaves its folder or is not plain",
            expected="relative names of letters, digits and . _ = + -",
            found=shown(name),
            where=where,
            kept="nothing was opened or changed",
        )
    return name


@contextmanager
def guarded(action: str, path: str) -> Iterator[None]:
    """Turn the system's errors into `StorageError`; a file missing on one of `MAY_MISS` is for the caller to
    explain.
    """
    try:
        yield
    except QuiverError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError) and action in MAY_MISS:
            raise
        raise storage_error(error, action, path) from error


def storage_error(error: Exception, action: str, path: str) -> StorageError:
    """The `StorageError` that says which errno met which path."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None:
        kinds = ((PermissionError, errno.EACCES), (FileNotFoundError, errno.ENOENT))
        number = next((code for kind, code in kinds if isinstance(error, kind)), None)
    name = errno.errorcode.get(number, str(number)) if number else type(error).__name__
    slug = _SLUGS.get(number or 0, "storage")
    no_credentials = type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")
    mapped = StorageError(
        slug,
        f"could not {action} {shown(path)}: {name}",
        found=shown(getattr(error, "strerror", None) or error),
        where=shown(path),
        kept="what was published before; nothing half-written is visible",
        next=_CREDENTIALS_HINT if no_credentials else _HINTS.get(slug, "run the same command again"),
    )
    mapped.errno = number
    return mapped


def _protocol(link: str) -> str | None:
    match = _SCHEME.match(link) or _BARE_SCHEME.match(link)
    return match.group(1).lower() if match else None


def _refused(slug: str, what: str, url: str) -> ConfigError:
    return ConfigError(
        slug,
        f"{what}: {shown(url)}",
        expected=f"a local path or one of {', '.join(sorted(f'{name}://' for name in PROTOCOLS))}",
        kept="nothing was opened",
        next=f"name a local folder, or {_CREDENTIALS_HINT}",
    )
