"""Batches of an outside Parquet, Arrow or NumPy file, read by a child process; the file's digest is checked before
anything is parsed.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from datakit.formats.compression import FLOOR, RATIO, too_large
from datakit.formats.sources import checked, opened
from schemas.errors import DataError, QuiverError
from schemas.process import interpreter
from schemas.store.opening import named_file
from schemas.store.storage import normal, shown

_ROWS = 4096
_MEMORY = 8 << 30
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
    """The batches that the child sends, which runs `worker`; `error` if the file is broken or the child died of it."""
    with _local(url, sha256) as path, tempfile.TemporaryFile() as stderr:
        child = subprocess.Popen(
            interpreter.script(str(worker)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env={"PATH": os.defpath},
        )  # fmt: skip
        assert child.stdin is not None, "the child was started without a pipe"
        assert child.stdout is not None, "the child was started without a pipe"
        stored = os.stat(path).st_size
        most = max(FLOOR, RATIO * stored)
        request = {"path": path, "columns": columns, "rows": _ROWS, "memory": _MEMORY, "most": most}
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.close()
            try:
                with pa.ipc.open_stream(child.stdout) as stream:
                    for batch in stream:
                        yield pa.Table.from_batches([batch])
            except pa.ArrowException:
                if child.wait() == 0:
                    raise
            code = child.wait()
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
        stderr.seek(0)
        if code == 4:
            raise too_large(url, most, stored)
        if code:
            why = (
                shown(stderr.read(500).decode("utf-8", "replace").strip())
                if code == 3
                else f"the reader ended with {code}"
            )
            raise error(
                f"broken-{kind.lower()}",
                f"{shown(url)} is not a sound {kind} file",
                found=why,
                kept="nothing was published",
            )
