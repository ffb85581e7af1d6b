"""How much files become as a dataset, judged by their beginnings before anything is read whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from datakit.formats.compression import FLOOR, RATIO
from datakit.formats.sources import head_of
from datakit.op import Size

ID_BYTES = 60
"""Bytes of a row's ids, which no compression shrinks."""
_SAMPLE = 1 << 20
"""Bytes of a file's beginning, without its compression, that are looked at."""
_COLUMNAR = b"PAR1"
_ROW_BYTES, _RECORD_BYTES = 256, 1024
"""Bytes of a row in a columnar file, and of a record in a JSON list, where nothing else is known."""


def size_of(files: Sequence[str]) -> Size:
    """What those of the `files` become that lie on this machine."""
    sizes = [_of_file(Path(name)) for name in files if "://" not in name and os.path.exists(name)]
    return Size(sum(size.rows for size in sizes), sum(size.bytes for size in sizes))


def _of_file(file: Path) -> Size:
    """The beginning says how far text of this kind shrinks, and how long a record is."""
    stored = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(len(_COLUMNAR))
    text = b"" if start == _COLUMNAR or not stored else head_of(str(file), _SAMPLE)
    if not text:
        return Size(stored / _ROW_BYTES, stored)
    shrunk = len(pa.Codec("zstd").compress(text, asbytes=True)) / len(text)
    expanded = min(stored / shrunk, max(FLOOR, RATIO * stored))
    size = float(len(text) if len(text) < _SAMPLE else stored if text.startswith(start) else expanded)
    lines = 0 if text.lstrip().startswith(b"[") else sum(not line.isspace() for line in text.splitlines(keepends=True))
    rows = size * lines / len(text) if lines else size / _RECORD_BYTES
    return Size(rows, size * shrunk + rows * ID_BYTES)
