"""Batches of an outside Parquet, Arrow or NumPy file, read by a child process; the file's digest is checked before
anything is parsed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from datakit.formats.compression import FLOOR, RATIO, too_large
from datakit.formats.sources import checked, opened
from schemas.errors import DataError, QuiverError
from schemas.process import interpreter
from schemas.store.opening import named_file
from schemas.store.storage import normal, shown
from schemas.valid import require_valid

_ROWS = 4096
_MEMORY = 8 << 30
SECONDS = 5
"""Processor seconds that a file of any size may take, in a worker that counts them."""
_SECONDS = 600.0
"""How long one piece of a reply is waited for."""

_GRACE_SECONDS = 30.0
_OVERHEAD = 64 << 20
"""What messages hold beside the values: schema, sizes, padding."""

_WORKER = Path(__file__).with_name("parquet_worker.py")


@contextmanager
def _local(url: str, sha256: str) -> Iterator[str]:
    """A path of a local file with the bytes of `url`, whose digest is checked before anything is parsed."""
    place = normal(url) if "://" in normal(url) else named_file(url)[1]
    with opened(url) as stream:
        if "://" not in place:
            for _ in checked(url, stream, sha256):
                pass
            yield place
            return
        with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
            for data in checked(url, stream, sha256):
                file.write(data)
            file.flush()
            yield file.name


def batches(
    url: str,
    sha256: str,
    columns: list[str],
    kind: str = "Parquet",
    *,
    worker: Path = _WORKER,
    error: type[QuiverError] = DataError,
) -> Iterator[pa.Table]:
    """The batches that the child sends, which runs `worker`; `error` if the file is broken, the child died of it, or it
    answers what was not agreed: too much, nothing for too long, values that are not what their types say.
    """
    with _local(url, sha256) as path, tempfile.TemporaryFile() as stderr:
        stored = os.stat(path).st_size
        most = max(FLOOR, RATIO * stored)
        request = {"path": path, "columns": columns, "rows": _ROWS, "memory": _MEMORY, "most": most, "seconds": SECONDS}
        child = subprocess.Popen(
            interpreter.script(str(worker)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env={"PATH": os.defpath},
        )  # fmt: skip
        assert child.stdin is not None, "the child was started without a pipe"
        assert child.stdout is not None, "the child was started without a pipe"
        fault = ""
        try:
            with suppress(BrokenPipeError):
                child.stdin.write(json.dumps(request).encode() + b"\n")
                child.stdin.close()
            replies = pa.PythonFile(_Replies(child, most + most // 2 + _OVERHEAD), mode="r")
            try:
                with pa.ipc.open_stream(replies) as stream:
                    for batch in stream:
                        table = pa.Table.from_batches([batch])
                        require_valid(table, shown(url))
                        yield table
            except (pa.ArrowException, DataError, ValueError, OSError) as wrong:
                fault = f"its reader answered what was not agreed: {shown(wrong)}"
                child.stdout.close()  # nobody reads on: one that is still writing ends at once
            code = _ended(child)
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
        stderr.seek(0)
        if code == 4:
            raise too_large(url, most, stored)
        if code or fault:
            why = shown(stderr.read(500).decode("utf-8", "replace").strip()) if code == 3 else fault
            if code == -signal.SIGXCPU:
                code, why = 0, "it asks for more work than a file of its size can"
            raise error(
                f"broken-{kind.lower()}",
                f"{shown(url)} is not a sound {kind} file",
                found=why if code in (0, 3) or (fault and code > 0) else f"the reader ended with {code}",
                kept="nothing was published",
            )


class _Replies:
    """What the child says, up to a size; it is killed where it says nothing for too long."""

    closed = False

    def __init__(self, child: subprocess.Popen[bytes], most: int) -> None:
        assert child.stdout is not None, "the child was started without a pipe"
        self._child, self._source, self._left = child, child.stdout, most

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end; `ValueError` for more than was agreed."""
        if not 0 <= size <= self._left:
            raise ValueError("more than its file could hold")
        timer = threading.Timer(_SECONDS, self._child.kill)
        timer.daemon = True
        timer.start()
        try:
            data = self._source.read(size)
        finally:
            timer.cancel()
        self._left -= len(data)
        return data

    def close(self) -> None:
        """The pipe is closed by who opened it."""


def _ended(child: subprocess.Popen[bytes]) -> int:
    """The child's exit code; one that does not leave after its last word is killed."""
    try:
        return child.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()
