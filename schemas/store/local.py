"""Local folders as a `Store`: durable writes, atomic creation by hard link, exclusion by `flock` on a
folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, cast

from schemas.errors import ConfigError, ConflictError, IntegrityError
from schemas.store.storage import guarded, shown

WAIT_SECONDS = 60.0
_TURNS = 10
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class LocalSink:
    """A file being written through its descriptor."""

    def __init__(self, path: str) -> None:
        self._path = path
        with guarded("create", path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.open(path, flags, 0o666)

    def write(self, data: bytes) -> None:
        """Append `data`, however many system calls that takes."""
        with guarded("write", self._path):
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]

    def finish(self) -> None:
        """Make the bytes durable (fsync of the file), then close it."""
        with guarded("finish", self._path):
            os.fsync(self._file)
            self._close()

    def abort(self) -> None:
        """Close the file and remove what was written of it."""
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            os.unlink(self._path)

    def _close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


class LocalStore:
    """Folders of this machine (or of a POSIX network file system)."""

    def join(self, folder: str, name: str) -> str:
        """The path of `name` below `folder`."""
        return f"{folder}/{name}" if name else folder

    def read(self, path: str, limit: int) -> bytes:
        """All bytes of a regular file."""
        with self.open(path) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise IntegrityError("too-large", f"{shown(path)} is too large", expected=f"at most {limit} bytes")
        return data

    def open(self, path: str) -> BinaryIO:
        """A reader of a regular file; links are not followed."""
        with guarded("read", path):
            try:
                number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise _link(path) from error
                if error.errno == errno.ENOTDIR:
                    raise FileNotFoundError(errno.ENOENT, "no such file", path) from error
                raise
            if not stat.S_ISREG(os.fstat(number).st_mode):
                os.close(number)
                raise _link(path)
            return cast(BinaryIO, open(number, "rb", buffering=0))

    def create(self, path: str) -> LocalSink:
        """A sink whose file appears at `path` at once, and is whole after `finish`."""
        return LocalSink(path)

    def put_if_absent(self, path: str, data: bytes, scratch: str) -> bool:
        """A temporary file in `scratch`, fsync, a hard link under the final name."""
        temporary = f"{scratch}/{os.urandom(8).hex()}"
        sink = LocalSink(temporary)
        try:
            sink.write(data)
            sink.finish()
            with guarded("publish", path):
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    return False
                except OSError as error:
                    if error.errno in _NO_LINKS:
                        raise _lacks(path) from error
                    raise
                self.sync(os.path.dirname(path))
        finally:
            sink.abort()
        return True

    def move(self, source: str, target: str) -> None:
        """One rename, which replaces `target` in one step."""
        with guarded("move", target):
            os.replace(source, target)

    def size(self, path: str) -> int | None:
        """Bytes of a regular file."""
        with guarded("look at", path):
            try:
                facts = os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            if not stat.S_ISREG(facts.st_mode):
                raise _link(path)
            return facts.st_size

    def modified(self, path: str) -> float:
        """The mtime of the file or link itself, in seconds."""
        with guarded("look at", path):
            return os.lstat(path).st_mtime

    def version(self, path: str, opened: BinaryIO) -> tuple[int, ...]:
        """Inode and times of the open file: nobody can set a time of change."""
        with guarded("look at", path):
            facts = os.fstat(opened.fileno())
            return (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)

    def names(self, folder: str) -> list[str]:
        """Sorted names; hidden ones are among them."""
        with guarded("list", folder):
            try:
                return sorted(os.listdir(folder))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def walk(self, folder: str) -> list[str]:
        """Files below a folder, which is not a link."""
        files = []
        for name in self.names(folder) if self._is_folder(folder) else []:
            path = f"{folder}/{name}"
            if self._is_folder(path):
                files += [f"{name}/{below}" for below in self.walk(path)]
            else:
                files.append(name)
        return sorted(files)

    def make_folder(self, folder: str) -> None:
        """Make missing parents first, each synced into its own parent; again where one was removed meanwhile."""
        with guarded("make folder", folder):
            for turn in range(_TURNS):
                if os.path.isdir(folder):
                    return
                self.make_folder(os.path.dirname(folder))
                try:
                    os.mkdir(folder)
                except FileExistsError:
                    return
                except FileNotFoundError:
                    if turn == _TURNS - 1:
                        raise
                else:
                    self.sync(os.path.dirname(folder))

    def sync(self, path: str) -> None:
        """Make the names in the folder durable (fsync of the folder)."""
        with guarded("sync", path):
            number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(number)
            finally:
                os.close(number)

    def remove(self, path: str) -> None:
        """Remove the file or the link itself; fine if there is none."""
        with guarded("remove", path), suppress(FileNotFoundError):
            os.unlink(path)

    def remove_tree(self, folder: str) -> None:
        """Unlink and rmdir, deepest first."""
        with guarded("remove", folder), suppress(FileNotFoundError):
            if not stat.S_ISDIR(os.lstat(folder).st_mode):
                os.unlink(folder)
                return
            for name in self.names(folder):
                self.remove_tree(f"{folder}/{name}")
            os.rmdir(folder)

    def remove_empty(self, folder: str) -> None:
        """Remove the folder where nothing is in it; never raises for storage's sake."""
        with suppress(OSError):
            os.rmdir(folder)

    @contextmanager
    def exclusive(self, folder: str) -> Iterator[None]:
        """`flock` on the folder itself, made where there is none: nothing to leave behind, and the kernel lets go of
        the dead. A folder that was removed while it was waited for is made again.
        """
        while (number := _locked(folder)) is None:
            self.make_folder(folder)
        try:
            yield
        finally:
            with suppress(OSError):
                os.close(number)

    def _is_folder(self, path: str) -> bool:
        with guarded("look at", path):
            try:
                return stat.S_ISDIR(os.lstat(path).st_mode)
            except FileNotFoundError:
                return False


def _locked(folder: str) -> int | None:
    """A descriptor that holds `folder`; None where there is none, or where it was removed while it was waited for."""
    with guarded("lock", folder):
        try:
            number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            _lock(number, folder)
            if os.path.samestat(os.fstat(number), os.stat(folder)):
                return number
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(number)
            raise
        os.close(number)
        return None


def _lock(number: int, folder: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ConflictError(
                    "busy",
                    f"another process holds {shown(folder)}",
                    kept="nothing was changed",
                    next="wait for the other run, then run the same command again",
                ) from None
            time.sleep(0.01)
        except OSError as error:
            raise _lacks(folder) from error


def _lacks(path: str) -> ConfigError:
    return ConfigError(
        "store-lacks-put-if-absent",
        f"the file system of {shown(path)} has no hard links or no locks",
        expected="a file system with both, so that two runs cannot overwrite one another",
        kept="nothing was changed",
        next="write to another place (ext4, xfs, btrfs, NFS, or s3://)",
    )


def _link(path: str) -> IntegrityError:
    return IntegrityError(
        "not-a-file",
        f"{shown(path)} is a link or no regular file",
        where=shown(path),
        kept="nothing was opened or changed",
        next="put the file itself there, or make the dataset again",
    )
