"""SQL of users, run by a child process that the kernel holds to its limits.

DuckDB does not count the temporaries of its scalar functions and cannot be interrupted inside one, so a
statement runs in a process with a cap on its address space, and SIGKILL ends it when its time is over. Rows
go in and come out as Arrow streams; what comes out is validated here. A child is kept and used again, so that
a chunk of rows costs a copy through a pipe.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import pyarrow as pa

from datakit.duck.session import CONFIG, LOCKS
from schemas.errors import DataError, QuiverError, StorageError, printable
from schemas.process import interpreter
from schemas.schema import widened
from schemas.store.scratch import Scratch

BATCH_ROWS = 8192
"""Rows of a result that are held at once; rows with texts of 100 kB are 800 MB of them."""

_OVERHEAD = 2 << 30
"""Address space beside DuckDB's own memory: the interpreter, libraries, rows on their way in and out."""

_LARGEST_REPLY = 1 << 32
_LIMITS = ("space", "time", "memory", "limit")
_PIPE_BYTES = 1 << 20
_WORKER = Path(__file__).with_name("sql_worker.py")
_Stream = tuple[pa.Schema, Iterable[pa.RecordBatch]]


_T = TypeVar("_T")


class SqlError(Exception):
    """The statement is wrong, or wrong for these rows; the message is DuckDB's."""

    @property
    def missing(self) -> tuple[str, ...]:
        """The columns that DuckDB's binder does not find."""
        return tuple(re.findall(r'(?:Referenced column|have a column named) "([^"]+)"', str(self)))


class SqlProcess:
    """A child with a locked DuckDB; started at the first use, and again after a limit has ended it.

    `memory` is what DuckDB may use, in MiB; `seconds` bounds the time that one statement is waited for. `catalog` is a
    DuckDB file whose views statements see, opened read-only; what they may read lies below the folder `readable`.
    """

    def __init__(self, *, memory: int, seconds: float, catalog: str = "", readable: str = "") -> None:
        self._memory, self._seconds = memory, seconds
        self._workspace = {"catalog": catalog, "readable": readable} if catalog else {}
        self._child: subprocess.Popen[bytes] | None = None
        self._spill: Scratch | None = None
        self._owner, self._late = 0, False

    def __enter__(self) -> SqlProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def parse(self, *texts: str) -> list[dict[str, Any]]:
        """The serialized syntax tree of each text, or an object whose `error` is true."""
        with self._limited(self._seconds):
            self._send({"parse": texts})
            trees = self._reply().get("trees")
        if not isinstance(trees, list) or len(trees) != len(texts):
            raise self._ended()
        try:
            return [dict(json.loads(tree)) for tree in trees]
        except RecursionError as error:
            raise SqlError("the statement is nested too deep") from error
        except (TypeError, ValueError):
            raise self._ended() from None

    def load(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        """Stream `batches` into a table that spills where memory ends."""
        self._send({"load": name}, [(schema, batches)])
        self._reply()

    def ask(self, sql: str, tables: Mapping[str, pa.Table] | None = None) -> Iterator[pa.RecordBatch]:
        """The result of one query over loaded tables and `tables`, in order; one empty batch where it has no rows."""
        left, whole = self._seconds, False
        started = time.monotonic()
        try:
            with self._limited(left):
                batch, whole = self._asked(sql, tables or {})
            left -= time.monotonic() - started
            yield batch
            while not whole:
                started = time.monotonic()
                with self._limited(left):
                    batch, whole = self._batch(batch.schema)
                left -= time.monotonic() - started
                yield batch
        except SqlError:
            whole = True
            raise
        finally:
            if not whole:  # the rest was not read: the child is out of step
                self.close()

    def table(self, sql: str, tables: Mapping[str, pa.Table] | None = None) -> pa.Table:
        """The whole result of one query."""
        try:
            with self._limited(self._seconds):
                batch, whole = self._asked(sql, tables or {})
                batches = [batch]
                while not whole:
                    batch, whole = self._batch(batch.schema)
                    batches.append(batch)
        except SqlError:
            raise
        except BaseException:
            self.close()
            raise
        return pa.Table.from_batches(batches)

    def close(self) -> None:
        """End the child; its tables and spilled rows are gone."""
        child, self._child = self._child, None
        if child is None or self._owner != os.getpid():
            return
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            with suppress(OSError):
                assert stream is not None, "the child was started without a pipe"
                stream.close()
        assert self._spill is not None, "a child was started without a folder"
        self._spill.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._owner == os.getpid():
            return self._child
        self._spill, self._owner = Scratch("quiver-sql-"), os.getpid()
        self._child = subprocess.Popen(
            interpreter.script(str(_WORKER), options=("-s",)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={"PATH": os.defpath, "MALLOC_ARENA_MAX": "2"}, cwd="/", pipesize=_PIPE_BYTES,
        )  # fmt: skip
        session = {"memory_limit": f"{self._memory}MiB", "threads": 1, "temp_directory": self._spill.path}
        head = {
            "memory": (self._memory << 20) + _OVERHEAD, "spill": self._spill.path,
            "config": {**session, **CONFIG}, "locks": LOCKS, **self._workspace,
        }  # fmt: skip
        self._write(self._child, head)
        self._reply()
        return self._child

    def _send(self, request: dict[str, Any], streams: Sequence[_Stream] = ()) -> None:
        self._write(self._started(), request, streams)

    def _write(self, child: subprocess.Popen[bytes], request: Any, streams: Sequence[_Stream] = ()) -> None:
        assert child.stdin is not None, "the child was started without a pipe"
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            for schema, batches in streams:
                read = widened(schema)  # DuckDB knows no float16 of Arrow's
                with pa.ipc.new_stream(child.stdin, read) as writer:
                    for batch in batches:
                        writer.write_batch(batch if read is schema else batch.cast(read))
            child.stdin.flush()
        except BrokenPipeError:
            pass  # the reply, or its absence, says why
        except BaseException:
            self.close()
            raise

    def _reply(self) -> dict[str, Any]:
        """The next reply; a fault in it, or an end of the child, is raised."""
        child = self._child
        assert child is not None and child.stdout is not None, "a reply is read of a child that was started"
        line = child.stdout.readline(_LARGEST_REPLY)
        if not line.endswith(b"\n"):
            raise self._ended()
        reply = self._understood(lambda: dict(json.loads(line)))
        kind = reply.get("fault")
        if kind is None:
            return reply
        message = str(reply.get("message"))
        if kind == "sql":
            raise SqlError(message)
        if kind not in _LIMITS:
            raise self._ended()
        self.close()
        raise self._stopped(kind, printable(message.split("\n", 1)[0], 200))

    def _asked(self, sql: str, tables: Mapping[str, pa.Table]) -> tuple[pa.RecordBatch, bool]:
        """Send the query; its first batch."""
        streams = [(table.schema, table.to_batches()) for table in tables.values()]
        self._send({"ask": sql, "tables": list(tables), "rows": BATCH_ROWS}, streams)
        return self._batch()

    def _batch(self, schema: pa.Schema | None = None) -> tuple[pa.RecordBatch, bool]:
        """The next batch of a result, of the `schema` of those before it, and whether it is the last."""
        reply = self._reply()
        child, size = self._child, reply.get("bytes")
        assert child is not None and child.stdout is not None, "a reply was read of a child that was started"
        body = child.stdout.read(size) if isinstance(size, int) and 0 < size <= _LARGEST_REPLY else b""
        if len(body) != size:
            raise self._ended()
        return self._understood(lambda: _batch_in(body, schema)), bool(reply.get("last"))

    def _understood(self, read: Callable[[], _T]) -> _T:
        """What `read` makes of the child's bytes; a child that does not answer as agreed is ended."""
        try:
            return read()
        except Exception:  # whatever a parser makes of bytes that are not those of our worker
            raise self._ended() from None

    @contextmanager
    def _limited(self, seconds: float) -> Iterator[None]:
        """Kill the child when `seconds` are over."""
        child = self._started()

        def late() -> None:
            self._late = True
            child.kill()

        self._late = False
        timer = threading.Timer(max(0.0, seconds), late)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _ended(self) -> QuiverError:
        child = self._child
        assert child is not None, "a child that was started has ended"
        child.kill()
        code = child.wait()
        self.close()
        return self._stopped("time" if self._late else "limit", f"the SQL process ended with {code}")

    def _stopped(self, kind: str, actual: str) -> QuiverError:
        """What to say of a statement that met a limit."""
        if kind == "space":
            return StorageError("no-space", "no room for what the statement spills", found=actual,
                                where=tempfile.gettempdir(), next="free some space, or set TMPDIR")  # fmt: skip
        slug, what, limit = {
            "time": ("sql-timeout", "the statement ran too long and was stopped", f"at most {self._seconds:g} s"),
            "memory": ("sql-memory", "the statement needs too much memory", f"at most {self._memory} MiB"),
            "limit": ("sql-limit", "the statement broke a limit and was stopped", f"at most {self._memory} MiB"),
        }[kind]
        return DataError(
            slug, what, expected=limit, found=actual, kept="nothing of this output",
            next="make the statement smaller: fewer or shorter texts at once, no endless ranges",
        )  # fmt: skip


def _batch_in(body: bytes, schema: pa.Schema | None) -> pa.RecordBatch:
    """The batch of an Arrow stream, every value of it valid; `ValueError` for one of another `schema`."""
    with pa.ipc.open_stream(body) as stream:
        batch = stream.read_next_batch()
    batch.validate(full=True)
    if schema is not None and batch.schema != schema:
        raise ValueError("another schema")
    return batch


_KEPT = SqlProcess(memory=1024, seconds=600)
_one_at_a_time = threading.Lock()
atexit.register(_KEPT.close)


@contextmanager
def shared() -> Iterator[SqlProcess]:
    """The child that this process keeps until it ends, for checks and small chunks; one thread has it at a time."""
    with _one_at_a_time:
        yield _KEPT
