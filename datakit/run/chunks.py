"""Finished chunks of paid work, kept beside the output until that is published: no answer is paid for twice.

A chunk is a fixed number of input rows. Its result is one file under `<output>/_progress-<task_key[:8]>/`, created
whole or not at all: a line of JSON (what it belongs to, sizes, SHA-256 of the rest), then the rows and the
rejected rows as Arrow streams. A chunk is used again only if its hash is right and it belongs to this task
and to these very input bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass

import pyarrow as pa

from datakit.op import Result
from datakit.run.journal import Journal
from schemas.canonical import canonical
from schemas.errors import StorageError
from schemas.store.commit import sweep
from schemas.store.local import LocalStore
from schemas.store.opening import open_store
from schemas.store.storage import Store

_PREFIX = "_progress-"
_LIMIT = 1 << 32
_HEADER_LIMIT = 1 << 16
_TRIES = 8


@dataclass(frozen=True)
class Chunks:
    """The kept chunks of one task: `url` of the output, its `task_key`."""

    url: str
    task_key: str

    def keep(self, name: str, source: str, result: Result) -> Result:
        """Keep the result for input bytes `source`; returns what is kept, which may be a racing twin's."""
        store, folder = self._place()
        path = store.join(folder, name)
        data = _packed(self.task_key, source, result)
        for _ in range(_TRIES):
            try:
                store.make_folder(folder)
                if store.put_if_absent(path, data, folder):
                    break
            except OSError as fault:
                if fault.errno != errno.ENOENT:
                    raise
                continue  # a twin has published and dropped the folder
            kept = self.find(name, source)
            if kept is not None:
                return kept
            store.remove(path)
        else:
            raise StorageError("kept-chunk", f"other processes keep writing or removing {name}", where=path)
        kept_result = _unpacked(data, self.task_key, source)
        assert kept_result is not None, f"chunk {name} does not read back"
        return kept_result

    def find(self, name: str, source: str) -> Result | None:
        """The kept result of that name, or None where there is none that is whole and belongs here."""
        store, folder = self._place()
        try:
            data = store.read(store.join(folder, name), _LIMIT)
        except FileNotFoundError:
            return None
        return _unpacked(data, self.task_key, source)

    def journal(self, name: str) -> Journal:
        """The answers that were paid for of the chunk of that name, before it is kept."""
        return Journal(os.path.join(self._local(), f"{name}.answers"))

    def drop(self) -> None:
        """Remove all kept chunks: the output is published. A twin that still keeps some drops them itself."""
        store, folder = self._place()
        if not isinstance(store, LocalStore):
            shutil.rmtree(self._local(), ignore_errors=True)
        for _ in range(_TRIES):
            try:
                store.remove_tree(folder)
                return
            except OSError as fault:
                if fault.errno != errno.ENOTEMPTY:
                    raise

    def _local(self) -> str:
        """The folder for journals: that of the chunks; where they lie on no local disk, one below the temp folder."""
        store, folder = self._place()
        if isinstance(store, LocalStore):
            return folder
        name = hashlib.sha256(folder.encode()).hexdigest()[:16]
        return os.path.join(tempfile.gettempdir(), f"quiver-answers-{os.getuid()}-{name}")

    def _place(self) -> tuple[Store, str]:
        store, root = open_store(self.url)
        return store, store.join(root, f"{_PREFIX}{self.task_key[:8]}")


def remove_stale(url: str) -> None:
    """Remove what ended runs left beside the published output at `url`: attempts, and kept chunks of any task."""
    sweep(url)
    store, root = open_store(url)
    for name in store.names(root):
        if name.startswith(_PREFIX):
            Chunks(url, name.removeprefix(_PREFIX)).drop()


def _packed(task_key: str, source: str, result: Result) -> bytes:
    bodies = [_stream(result.rows), b"" if result.rejected is None else _stream(result.rejected)]
    header = {
        "key": task_key,
        "source": source,
        "sizes": [len(body) for body in bodies],
        "counts": dict(result.counts),
        "sha256": hashlib.sha256(b"".join(bodies)).hexdigest(),
    }
    return b"\n".join([canonical(header).encode(), b"".join(bodies)])


def _unpacked(data: bytes, task_key: str, source: str) -> Result | None:
    line, _, body = data.partition(b"\n")
    try:
        header = json.loads(line[:_HEADER_LIMIT])
        first, second = header["sizes"]
        whole = header["key"] == task_key and header["source"] == source and len(body) == first + second
        if not whole or header["sha256"] != hashlib.sha256(body).hexdigest():
            return None
        counts = dict(header["counts"])
        return Result(_table(body[:first]), _table(body[first:]) if second else None, counts)
    except Exception:  # whatever a parser makes of torn or hostile bytes: the chunk is worked out again
        return None


def _table(body: bytes) -> pa.Table:
    table = pa.ipc.open_stream(body).read_all()
    table.validate(full=True)
    return table


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
